#include "ops/cache_kernels.hpp"
#include "ops/kernels.hpp"
#include "ops/mqa_kernels.hpp"
#include "ops/paged_mqa_logits/paged_mqa_logits_impl.hpp"
#include "ops/simt_kernel.hpp"

namespace fathom {
namespace {

struct Plan {
  std::int32_t f32;
  IndexCachePlan cache;
};

jit::Source source(const Plan& plan) {
  const std::string element = plan.f32 ? "F32" : "F8";
  return simt_source(
      {.name = (plan.f32 ? "paged_mqa_logits.simt_f32" : "paged_mqa_logits.simt_f8") + plan.cache.suffix(),
       .header = "simt/mqa.cuh",
       .function = "simt::paged_mqa_logits<fathom::simt::Mqa" + element + ", " +
                   plan.cache.template_arguments() + ">",
       .args = "PagedMqaLogitsKernel",
       .args_bytes = sizeof(PagedMqaLogitsKernel),
       .blocks = 3});
}

Plan plan_of(const PagedMqaLogitsProblem& problem) {
  const bool f32 = problem.q == DType::f32;
  return {f32, index_cache_plan(problem.page, problem.head_dim, f32)};
}

}  // namespace

// Every block finds its keys by the lengths alone: there is no schedule that could be stale.
void paged_mqa_logits_simt(const PagedMqaLogitsProblem& problem, const PagedMqaLogitsArgs& args,
                           const Context& context) {
  const std::int64_t rows = problem.batch * problem.next_n;
  if (rows == 0 || problem.max_len == 0) return;
  const auto tiles = static_cast<unsigned>((problem.max_len + kMqaKeys - 1) / kMqaKeys);
  jit::launch(jit::kernel(context, source, plan_of(problem)),
              {.grid = {tiles, simt_blocks(rows, 1, kGridAxis)}, .block = {kRowThreads}}, context,
              paged_mqa_logits_kernel(problem, args));
}

KernelSources paged_mqa_logits_kernels;
std::vector<jit::Source> paged_mqa_logits_kernels(std::string_view text, const cuda::DeviceInfo& device) {
  const auto problem = parse_problem<PagedMqaLogitsProblem>(text);
  std::vector<jit::Source> sources = paged_mqa_logits_sm90_kernels(problem, device);
  sources.push_back(source(plan_of(problem)));
  return sources;
}

}  // namespace fathom
