// m_grouped_fp8_gemm_nt on NVIDIA GPUs from compute capability 8.0.
#include "ops/m_grouped_fp8_gemm_nt/m_grouped_fp8_gemm_nt_impl.hpp"
#include "ops/simt_grouped.hpp"

namespace fathom {

void m_grouped_fp8_gemm_nt_simt(const MGroupedFp8GemmNtProblem& problem, const MGroupedFp8GemmNtArgs& args,
                                const Context& context) {
  run_simt_grouped({SimtElement::f8e4m3}, problem.layout, grouped_tensors(args), context);
}

}  // namespace fathom
