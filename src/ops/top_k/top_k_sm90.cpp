#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "cuda/device_context.hpp"
#include "jit/kernel_cache.hpp"
#include "ops/simt_kernel.hpp"
#include "ops/top_k/top_k_impl.hpp"

namespace fathom {
namespace {

struct Plan {
  std::int32_t page;     // 0: no pages
  std::int32_t held;     // a row in the registers of a block: units of four scores of a thread; else 0
  std::int32_t few;      // rows
  std::int32_t threads;  // of a block
  std::int32_t blocks;   // few rows: of a cluster, which share a row; else of a multiprocessor
  std::int32_t list;     // many rows: candidates of a block
  std::int32_t sample;   // scores that give the bound: of a row if rows are few, else of each lane
};

// Many rows: one after the other in each of two blocks of a multiprocessor, so that one block copies while
// the other one chooses; one block where its list would be too long for two.
Plan plan_many(const TopKProblem& problem, std::int32_t page) {
  Plan plan{.page = page, .held = 0, .few = 0, .threads = 512, .blocks = 2, .list = 4864, .sample = 4};
  if (problem.n > 1 << 15) plan.sample = 8;
  if (problem.n > 1 << 16 || problem.k > 2048) {
    plan.threads = 1024;
    plan.blocks = 1;
    plan.list = 8192;
    plan.sample = 8;
  }
  return plan;
}

// Short rows are held in registers, however many they are. Few rows: a row shared by two blocks where
// they all find room at once. Four only for very few rows: more clusters of four than 31 would wait for
// a second turn, because not every part of the device has a number of multiprocessors that four divides.
Plan plan_of(const TopKProblem& problem, const cuda::DeviceInfo& device) {
  const std::int32_t page =
      problem.transform == TopKTransform::paged ? static_cast<std::int32_t>(problem.page) : 0;
  constexpr std::int64_t kUnits = 4 * kTopKHeldThreads;  // scores of a unit of all threads
  if (problem.n <= 4 * kUnits) return {.page = page, .held = 4, .threads = kTopKHeldThreads, .blocks = 3};
  if (problem.n <= 8 * kUnits) return {.page = page, .held = 8, .threads = kTopKHeldThreads, .blocks = 2};
  if (problem.rows > device.num_sms) return plan_many(problem, page);
  Plan plan{
      .page = page, .held = 0, .few = 1, .threads = kTopKFewThreads, .blocks = 1, .list = 0, .sample = 2048};
  if (2 * problem.rows <= device.num_sms) plan.blocks = 2;
  if (problem.n > 1 << 15 && 6 * problem.rows <= device.num_sms) plan.blocks = 4;
  if (plan.blocks > 1) return plan;
  // A list is short for a whole row: more samples pass fewer scores besides the k largest.
  if (problem.n > 1 << 17 || (problem.k > 2048 && problem.n > 1 << 15)) plan.sample = 4096;
  return plan;
}

jit::Source source(const Plan& plan) {
  SimtKernel kernel{
      .args = "TopKKernel", .args_bytes = sizeof(TopKKernel), .threads = plan.threads, .blocks = plan.blocks};
  if (plan.held != 0) {
    kernel.name = fmt::format("top_k.sm90_held_u{}_p{}", plan.held, plan.page);
    kernel.header = "sm90/top_k_held.cuh";
    kernel.function = fmt::format("sm90_top_k_held<{}, {}>", plan.page, plan.held);
  } else if (plan.few != 0) {
    kernel.name = fmt::format("top_k.sm90_b{}_s{}_p{}", plan.blocks, plan.sample, plan.page);
    kernel.header = "sm90/top_k_few.cuh";
    kernel.function = fmt::format("sm90_top_k_few<{}, {}, {}>", plan.page, plan.blocks, plan.sample);
    kernel.blocks = 1;
  } else {
    kernel.name = fmt::format("top_k.sm90_rows_t{}_s{}_p{}", plan.threads, plan.sample, plan.page);
    kernel.header = "sm90/top_k.cuh";
    kernel.function =
        fmt::format("sm90_top_k<{}, {}, {}, {}>", plan.threads, plan.page, plan.list, plan.sample);
  }
  return simt_source(kernel);
}

std::int64_t shared_bytes(const Plan& plan, std::int64_t n) {
  if (plan.held != 0) return sizeof(TopKHeldScratch);
  return plan.few != 0 ? sm90_top_k_few_shared_bytes(plan.blocks, n)
                       : sm90_top_k_shared_bytes(plan.threads, plan.list, n);
}

Verdict fits(const TopKProblem& problem, const cuda::DeviceInfo& device) {
  if (device.sm() != 90) {
    return decline(fmt::format("needs compute capability 9.0, got {}.{}", device.sm_major, device.sm_minor));
  }
  if (problem.k > kTopKCandidates / 2)
    return decline(fmt::format("needs a k of up to {}, got {}", kTopKCandidates / 2, problem.k));
  if (std::max(problem.rows, problem.n) > std::numeric_limits<std::int32_t>::max())
    return decline(fmt::format("needs fewer than 2^31 rows and scores of a row, got {} and {}", problem.rows,
                               problem.n));
  return accept;
}

}  // namespace

Verdict top_k_sm90_can_run(const TopKProblem& problem, const Context& context) {
  return fits(problem, cuda::device_context(context).info());
}

void top_k_sm90(const TopKProblem& problem, const TopKArgs& args, const Context& context) {
  if (problem.rows == 0) return;
  const cuda::DeviceInfo& device = cuda::device_context(context).info();
  const Plan plan = plan_of(problem, device);
  const auto blocks = static_cast<unsigned>(plan.blocks);
  const auto rows = static_cast<unsigned>(problem.rows);
  const unsigned turns = blocks * static_cast<unsigned>(device.num_sms);
  jit::launch(jit::kernel(context, source, plan),
              {.grid = {plan.held != 0  ? rows
                        : plan.few != 0 ? rows * blocks
                                        : std::min(rows, turns)},
               .block = {static_cast<unsigned>(plan.threads)},
               .cluster = {plan.few != 0 ? blocks : 1},
               .shared_bytes = shared_bytes(plan, problem.n)},
              context, top_k_kernel(problem, args));
}

std::vector<jit::Source> top_k_sm90_kernels(const TopKProblem& problem, const cuda::DeviceInfo& device) {
  if (fits(problem, device)) return {};
  return {source(plan_of(problem, device))};
}

}  // namespace fathom
