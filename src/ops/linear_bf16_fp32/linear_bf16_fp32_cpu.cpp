#include "cpu/gemm.hpp"
#include "ops/linear_bf16_fp32/linear_bf16_fp32_impl.hpp"

namespace fathom {

void linear_bf16_fp32_cpu(const LinearBf16Fp32Problem&, const LinearBf16Fp32Args& args,
                          const Context& context) {
  cpu::gemm(cpu::Gemm::of(args.x, args.w, args.out), context);
}

}  // namespace fathom
