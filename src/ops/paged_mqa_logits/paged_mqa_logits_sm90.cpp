#include "cuda/device_context.hpp"
#include "ops/cache_kernels.hpp"
#include "ops/mqa_kernels.hpp"
#include "ops/paged_mqa_logits/paged_mqa_logits_impl.hpp"
#include "ops/sm90_mqa.hpp"

namespace fathom {
namespace {

Sm90MqaShape shape_of(const PagedMqaLogitsProblem& problem) {
  return {.ragged = false,
          .f8 = problem.q == DType::f8e4m3,
          .aligned = problem.aligned,
          .heads = problem.heads,
          .head_dim = problem.head_dim,
          .page = problem.page,
          .requests = problem.batch,
          .next_n = problem.next_n,
          .columns = problem.max_len};
}

}  // namespace

Verdict paged_mqa_logits_sm90_can_run(const PagedMqaLogitsProblem& problem, const Context& context) {
  if (const Verdict native = paged_mqa_logits_native(problem, context)) return native;
  return sm90_mqa_verdict(shape_of(problem), cuda::device_context(context).info());
}

Verdict paged_mqa_logits_sm90_flattened_can_run(const PagedMqaLogitsProblem& problem,
                                                const Context& context) {
  Sm90MqaShape draft = shape_of(problem);
  draft.next_n = 1;
  return sm90_mqa_verdict(draft, cuda::device_context(context).info());
}

void paged_mqa_logits_sm90(const PagedMqaLogitsProblem& problem, const PagedMqaLogitsArgs& args,
                           const Context& context) {
  if (problem.batch * problem.next_n == 0 || problem.max_len == 0) return;
  Sm90MqaKernel kernel{};
  kernel.paged = paged_mqa_logits_kernel(problem, args);
  run_sm90_mqa(shape_of(problem), kernel, args.cache, args.q, context);
}

std::vector<jit::Source> paged_mqa_logits_sm90_kernels(const PagedMqaLogitsProblem& problem,
                                                       const cuda::DeviceInfo& device) {
  if (sm90_mqa_verdict(shape_of(problem), device)) return {};
  return {sm90_mqa_source(sm90_mqa_plan(shape_of(problem)))};
}

}  // namespace fathom
