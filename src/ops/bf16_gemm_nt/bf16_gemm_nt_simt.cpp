#include "ops/bf16_gemm_nt/bf16_gemm_nt_impl.hpp"
#include "ops/simt_gemm.hpp"

namespace fathom {

void bf16_gemm_nt_simt(const Bf16GemmNtProblem&, const Bf16GemmNtArgs& args, const Context& context) {
  run_simt_gemm({SimtElement::bf16}, simt_gemm_args(args.a, args.b, args.out, args.accumulate), context);
}

}  // namespace fathom
