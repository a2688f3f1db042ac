#include <fmt/format.h>

#include "cuda/device_context.hpp"
#include "jit/kernel_cache.hpp"
#include "ops/simt_kernel.hpp"
#include "ops/top_k/top_k_impl.hpp"

namespace fathom {
namespace {

constexpr int kThreads = 512;

struct Plan {
  std::int32_t page;    // 0: no pages
  std::int32_t blocks;  // of a cluster, which share a row
};

// A row is shared while that leaves every block enough to read and all blocks fit the device at a time, two
// to a multiprocessor.
Plan plan_of(const TopKProblem& problem, const cuda::DeviceInfo& device) {
  constexpr std::int64_t kLeast = 1 << 13;  // scores of a block
  std::int32_t blocks = 1;
  while (blocks < 8 && problem.n / (2 * blocks) >= kLeast && problem.rows * 2 * blocks <= 2 * device.num_sms)
    blocks *= 2;
  return {problem.transform == TopKTransform::paged ? static_cast<std::int32_t>(problem.page) : 0, blocks};
}

jit::Source source(const Plan& plan) {
  return simt_source({.name = fmt::format("top_k.sm90_b{}_p{}", plan.blocks, plan.page),
                      .header = "sm90/top_k.cuh",
                      .function = fmt::format("sm90_top_k<{}, {}, {}>", kThreads, plan.page, plan.blocks),
                      .args = "TopKKernel",
                      .args_bytes = sizeof(TopKKernel),
                      .threads = kThreads});
}

Verdict fits(const TopKProblem& problem, const cuda::DeviceInfo& device) {
  if (device.sm() != 90) {
    return decline(fmt::format("needs compute capability 9.0, got {}.{}", device.sm_major, device.sm_minor));
  }
  if (problem.k > kTopKCandidates / 2)
    return decline(fmt::format("needs a k of up to {}, got {}", kTopKCandidates / 2, problem.k));
  return accept;
}

}  // namespace

Verdict top_k_sm90_can_run(const TopKProblem& problem, const Context& context) {
  return fits(problem, cuda::device_context(context).info());
}

void top_k_sm90(const TopKProblem& problem, const TopKArgs& args, const Context& context) {
  if (problem.rows == 0) return;
  const Plan plan = plan_of(problem, cuda::device_context(context).info());
  const auto blocks = static_cast<unsigned>(plan.blocks);
  jit::launch(
      jit::kernel(context, source, plan),
      {.grid = {simt_blocks(problem.rows) * blocks},
       .block = {kThreads},
       .cluster = {blocks},
       .shared_bytes = static_cast<std::int64_t>(sizeof(TopKScratch)) + top_k_shared_bytes(problem.n)},
      context, top_k_kernel(problem, args));
}

std::vector<jit::Source> top_k_sm90_kernels(const TopKProblem& problem, const cuda::DeviceInfo& device) {
  if (fits(problem, device)) return {};
  return {source(plan_of(problem, device))};
}

}  // namespace fathom
