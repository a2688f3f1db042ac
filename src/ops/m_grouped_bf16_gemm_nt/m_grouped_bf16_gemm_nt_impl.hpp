// The implementations of m_grouped_bf16_gemm_nt.
#pragma once
#include "fathom/ops/m_grouped_bf16_gemm_nt.hpp"

namespace fathom {
void m_grouped_bf16_gemm_nt_ref(const MGroupedBf16GemmNtProblem& problem, const MGroupedBf16GemmNtArgs& args,
                                const Context& context);
void m_grouped_bf16_gemm_nt_cpu(const MGroupedBf16GemmNtProblem& problem, const MGroupedBf16GemmNtArgs& args,
                                const Context& context);
}  // namespace fathom
