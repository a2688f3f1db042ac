// The implementations of m_grouped_fp8_gemm_nt.
#pragma once
#include "fathom/ops/m_grouped_fp8_gemm_nt.hpp"
#include "ops/dispatch.hpp"
#include "ops/simt_grouped.hpp"

namespace fathom {
void m_grouped_fp8_gemm_nt_ref(const MGroupedFp8GemmNtProblem& problem, const MGroupedFp8GemmNtArgs& args,
                               const Context& context);
void m_grouped_fp8_gemm_nt_cpu(const MGroupedFp8GemmNtProblem& problem, const MGroupedFp8GemmNtArgs& args,
                               const Context& context);
/// What the CUDA implementations take.
inline GroupedTensors grouped_tensors(const MGroupedFp8GemmNtArgs& args) {
  return {.a = args.a,
          .a_scale = args.a_scale,
          .b = args.b,
          .b_scale = args.b_scale,
          .rows = args.rows,
          .out = args.out};
}
Verdict m_grouped_fp8_gemm_nt_sm90_can_run(const MGroupedFp8GemmNtProblem& problem, const Context& context);
void m_grouped_fp8_gemm_nt_sm90(const MGroupedFp8GemmNtProblem& problem, const MGroupedFp8GemmNtArgs& args,
                                const Context& context);
void m_grouped_fp8_gemm_nt_simt(const MGroupedFp8GemmNtProblem& problem, const MGroupedFp8GemmNtArgs& args,
                                const Context& context);
}  // namespace fathom
