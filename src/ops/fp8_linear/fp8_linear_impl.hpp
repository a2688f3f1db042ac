// The implementations of fp8_linear.
#pragma once
#include "fathom/ops/fp8_gemm_nt.hpp"
#include "fathom/ops/fp8_linear.hpp"
#include "fathom/ops/quantize_groups.hpp"
#include "ops/dispatch.hpp"

namespace fathom {

inline QuantizeGroupsArgs quantize_step(const Fp8LinearArgs& args) {
  return {
      .x = args.x, .q = args.q, .scale = args.q_scale, .rule = args.rule, .scale_format = args.scale_format};
}
inline Fp8GemmNtArgs product_step(const Fp8LinearArgs& args) {
  return {.a = args.q,
          .a_scale = args.q_scale,
          .b = args.w,
          .b_scale = args.w_scale,
          .out = args.out,
          .accumulate = args.accumulate,
          .decode = args.decode};
}

void fp8_linear_ref(const Fp8LinearProblem& problem, const Fp8LinearArgs& args, const Context& context);
/// The two ops one after another, on any device.
void fp8_linear_steps(const Fp8LinearProblem& problem, const Fp8LinearArgs& args, const Context& context);
Verdict fp8_linear_sm90_can_run(const Fp8LinearProblem& problem, const Context& context);
void fp8_linear_sm90(const Fp8LinearProblem& problem, const Fp8LinearArgs& args, const Context& context);

}  // namespace fathom
