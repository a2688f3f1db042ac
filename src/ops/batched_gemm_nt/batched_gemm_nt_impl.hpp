// The implementations of batched_gemm_nt.
#pragma once
#include "fathom/ops/batched_gemm_nt.hpp"
#include "ops/dispatch.hpp"

namespace fathom {
void batched_gemm_nt_ref(const BatchedGemmNtProblem& problem, const BatchedGemmNtArgs& args,
                         const Context& context);
void batched_gemm_nt_cpu(const BatchedGemmNtProblem& problem, const BatchedGemmNtArgs& args,
                         const Context& context);
Verdict batched_gemm_nt_simt_can_run(const BatchedGemmNtProblem& problem, const Context& context);
void batched_gemm_nt_simt(const BatchedGemmNtProblem& problem, const BatchedGemmNtArgs& args,
                          const Context& context);
}  // namespace fathom
