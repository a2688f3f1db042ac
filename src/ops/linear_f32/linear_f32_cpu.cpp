#include "cpu/gemm.hpp"
#include "ops/gemm_scales.hpp"
#include "ops/linear_f32/linear_f32_impl.hpp"

namespace fathom {

void linear_f32_cpu(const LinearF32Problem& problem, const LinearF32Args& args, const Context& context) {
  cpu::Gemm gemm = cpu::Gemm::of(args.x, args.w, args.out);
  gemm.b_scale = cpu::gemm_scale(args.w_scale, kScaleGroup);
  gemm.accumulate = problem.accumulate;
  cpu::gemm(gemm, context);
}

}  // namespace fathom
