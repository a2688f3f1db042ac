#include "cuda/device_context.hpp"
#include "ops/mqa_kernels.hpp"
#include "ops/mqa_logits/mqa_logits_impl.hpp"
#include "ops/simt_kernel.hpp"
#include "ops/sm90_mqa.hpp"

namespace fathom {
namespace {

Sm90MqaShape shape_of(const MqaLogitsProblem& problem) {
  const std::int64_t tokens = sm90_mqa_tokens(problem.heads);
  return {.ragged = true,
          .f8 = problem.q == DType::f8e4m3,
          .aligned = problem.aligned,
          .heads = problem.heads,
          .head_dim = problem.head_dim,
          .requests = (problem.tokens + tokens - 1) / tokens,
          .next_n = tokens,
          .columns = problem.keys};
}

}  // namespace

Verdict mqa_logits_sm90_can_run(const MqaLogitsProblem& problem, const Context& context) {
  return sm90_mqa_verdict(shape_of(problem), cuda::device_context(context).info());
}

void mqa_logits_sm90(const MqaLogitsProblem& problem, const MqaLogitsArgs& args, const Context& context) {
  if (problem.tokens == 0 || problem.keys == 0) return;
  Sm90MqaKernel kernel{};
  kernel.ragged = mqa_logits_kernel(problem, args);
  run_sm90_mqa(shape_of(problem), kernel, args.k, args.q, context);
}

std::vector<jit::Source> mqa_logits_sm90_kernels(const MqaLogitsProblem& problem,
                                                 const cuda::DeviceInfo& device) {
  if (sm90_mqa_verdict(shape_of(problem), device)) return {};
  return {sm90_mqa_source(sm90_mqa_plan(shape_of(problem)))};
}

}  // namespace fathom
