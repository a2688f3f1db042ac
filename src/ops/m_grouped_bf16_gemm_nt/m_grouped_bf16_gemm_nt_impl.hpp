// The implementations of m_grouped_bf16_gemm_nt.
#pragma once
#include "fathom/ops/m_grouped_bf16_gemm_nt.hpp"
#include "ops/dispatch.hpp"
#include "ops/simt_grouped.hpp"

namespace fathom {
void m_grouped_bf16_gemm_nt_ref(const MGroupedBf16GemmNtProblem& problem, const MGroupedBf16GemmNtArgs& args,
                                const Context& context);
void m_grouped_bf16_gemm_nt_cpu(const MGroupedBf16GemmNtProblem& problem, const MGroupedBf16GemmNtArgs& args,
                                const Context& context);
/// What the CUDA implementations take.
inline GroupedTensors grouped_tensors(const MGroupedBf16GemmNtArgs& args) {
  return {.a = args.a, .a_scale = {}, .b = args.b, .b_scale = {}, .rows = args.rows, .out = args.out};
}
Verdict m_grouped_bf16_gemm_nt_sm90_can_run(const MGroupedBf16GemmNtProblem& problem, const Context& context);
void m_grouped_bf16_gemm_nt_sm90(const MGroupedBf16GemmNtProblem& problem, const MGroupedBf16GemmNtArgs& args,
                                 const Context& context);
void m_grouped_bf16_gemm_nt_simt(const MGroupedBf16GemmNtProblem& problem, const MGroupedBf16GemmNtArgs& args,
                                 const Context& context);
}  // namespace fathom
