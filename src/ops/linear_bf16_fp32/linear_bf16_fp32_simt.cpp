#include "ops/linear_bf16_fp32/linear_bf16_fp32_impl.hpp"
#include "ops/simt_gemm.hpp"

namespace fathom {

void linear_bf16_fp32_simt(const LinearBf16Fp32Problem&, const LinearBf16Fp32Args& args,
                           const Context& context) {
  run_simt_gemm({SimtElement::bf16}, simt_gemm_args(args.x, args.w, args.out, false), context);
}

}  // namespace fathom
