#include "cpu/gemm.hpp"
#include "ops/fp8_gemm_nt/fp8_gemm_nt_impl.hpp"
#include "ops/gemm_scales.hpp"

namespace fathom {

void fp8_gemm_nt_cpu(const Fp8GemmNtProblem& problem, const Fp8GemmNtArgs& args, const Context& context) {
  cpu::Gemm gemm = cpu::Gemm::of(args.a, args.b, args.out);
  gemm.a_scale = cpu::gemm_scale(args.a_scale, 1);
  gemm.b_scale = cpu::gemm_scale(args.b_scale, problem.row_b_scale ? 1 : kScaleGroup);
  gemm.accumulate = problem.accumulate;
  cpu::gemm(gemm, context);
}

}  // namespace fathom
