// The implementations of m_grouped_fp8_gemm_nt.
#pragma once
#include "fathom/ops/m_grouped_fp8_gemm_nt.hpp"

namespace fathom {
void m_grouped_fp8_gemm_nt_ref(const MGroupedFp8GemmNtProblem& problem, const MGroupedFp8GemmNtArgs& args,
                               const Context& context);
void m_grouped_fp8_gemm_nt_cpu(const MGroupedFp8GemmNtProblem& problem, const MGroupedFp8GemmNtArgs& args,
                               const Context& context);
}  // namespace fathom
