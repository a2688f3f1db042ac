#include "ops/head_gate/head_gate_impl.hpp"

namespace fathom {

Verdict head_gate_sm90_can_run(const HeadGateProblem& problem, const Context& context) {
  if (problem.x != DType::bf16) return decline("needs bf16 x, got f32");
  if (problem.hidden == 0) return decline("needs something to sum, got hidden of 0");
  return sm90_gemm_verdict(head_gate_shape(problem), problem.aligned, context);
}

void head_gate_sm90(const HeadGateProblem& problem, const HeadGateArgs& args, const Context& context) {
  run_sm90_gemm(head_gate_shape(problem),
                {.a = args.x,
                 .b = args.w,
                 .out = args.out,
                 .gate = {.given = true, .factor = head_gate_factor(problem, args), .scale = args.q_scale}},
                context);
}

}  // namespace fathom
