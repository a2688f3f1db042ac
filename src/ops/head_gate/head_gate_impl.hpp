// The implementations of head_gate.
#pragma once
#include <cmath>

#include "fathom/ops/head_gate.hpp"
#include "ops/dispatch.hpp"
#include "ops/sm90_gemm.hpp"

namespace fathom {

/// What every sum is multiplied by, before q_scale.
inline float head_gate_factor(float softmax_scale, std::int64_t heads) {
  return static_cast<float>(static_cast<double>(softmax_scale) / std::sqrt(static_cast<double>(heads)));
}
inline float head_gate_factor(const HeadGateProblem& problem, const HeadGateArgs& args) {
  return head_gate_factor(args.softmax_scale, problem.heads);
}
inline Sm90GemmShape head_gate_shape(const HeadGateProblem& problem) {
  return {
      .fp8 = false, .decode = problem.decode, .m = problem.tokens, .n = problem.heads, .k = problem.hidden};
}

void head_gate_ref(const HeadGateProblem& problem, const HeadGateArgs& args, const Context& context);
void head_gate_cpu(const HeadGateProblem& problem, const HeadGateArgs& args, const Context& context);
void head_gate_simt(const HeadGateProblem& problem, const HeadGateArgs& args, const Context& context);
Verdict head_gate_sm90_can_run(const HeadGateProblem& problem, const Context& context);
void head_gate_sm90(const HeadGateProblem& problem, const HeadGateArgs& args, const Context& context);

}  // namespace fathom
