#include "ops/fp8_gemm_nt/fp8_gemm_nt_impl.hpp"
#include "ops/fp8_linear/fp8_linear_impl.hpp"
#include "ops/quantize_groups/quantize_groups_impl.hpp"

namespace fathom {

void fp8_linear_ref(const Fp8LinearProblem& problem, const Fp8LinearArgs& args, const Context& context) {
  quantize_groups_ref({.tokens = problem.m,
                       .k = problem.k,
                       .x = problem.x,
                       .rule = problem.rule,
                       .scale_format = problem.scale_format},
                      quantize_step(args), context);
  fp8_gemm_nt_ref(
      {.m = problem.m, .n = problem.n, .k = problem.k, .out = problem.out, .accumulate = problem.accumulate},
      product_step(args), context);
}

}  // namespace fathom
