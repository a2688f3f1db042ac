#include "ops/kernels.hpp"
#include "ops/linear_bf16_fp32/linear_bf16_fp32_impl.hpp"
#include "ops/simt_gemm.hpp"

namespace fathom {

void linear_bf16_fp32_simt(const LinearBf16Fp32Problem&, const LinearBf16Fp32Args& args,
                           const Context& context) {
  run_simt_gemm({SimtElement::bf16}, simt_gemm_args(args.x, args.w, args.out, false), context);
}

KernelSources linear_bf16_fp32_kernels;
std::vector<jit::Source> linear_bf16_fp32_kernels(std::string_view problem, const cuda::DeviceInfo&) {
  parse_problem<LinearBf16Fp32Problem>(problem);
  return {simt_gemm_source({SimtElement::bf16})};
}

}  // namespace fathom
