#include "ops/fp8_gemm_nt/fp8_gemm_nt_impl.hpp"
#include "ops/gemm_scales.hpp"
#include "ops/simt_gemm.hpp"

namespace fathom {

void fp8_gemm_nt_simt(const Fp8GemmNtProblem& problem, const Fp8GemmNtArgs& args, const Context& context) {
  SimtGemmArgs kernel = simt_gemm_args(args.a, args.b, args.out, args.accumulate);
  kernel.a_scale = simt_scale(args.a_scale, 1);
  kernel.b_scale = simt_scale(args.b_scale, problem.row_b_scale ? 1 : static_cast<int>(kScaleGroup));
  run_simt_gemm({SimtElement::f8e4m3}, kernel, context);
}

}  // namespace fathom
