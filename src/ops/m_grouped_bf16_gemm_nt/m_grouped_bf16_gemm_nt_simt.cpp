// m_grouped_bf16_gemm_nt on NVIDIA GPUs from compute capability 8.0.
#include "ops/m_grouped_bf16_gemm_nt/m_grouped_bf16_gemm_nt_impl.hpp"
#include "ops/simt_grouped.hpp"

namespace fathom {

void m_grouped_bf16_gemm_nt_simt(const MGroupedBf16GemmNtProblem& problem, const MGroupedBf16GemmNtArgs& args,
                                 const Context& context) {
  run_simt_grouped({SimtElement::bf16}, problem.layout, grouped_tensors(args), context);
}

}  // namespace fathom
