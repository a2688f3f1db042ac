// m_grouped_bf16_gemm_nt on the CPU.
#include "ops/grouped_cpu.hpp"
#include "ops/m_grouped_bf16_gemm_nt/m_grouped_bf16_gemm_nt_impl.hpp"

namespace fathom {

void m_grouped_bf16_gemm_nt_cpu(const MGroupedBf16GemmNtProblem& problem, const MGroupedBf16GemmNtArgs& args,
                                const Context& context) {
  grouped_gemm(problem, args, context, [&](auto&&...) {});
}

}  // namespace fathom
