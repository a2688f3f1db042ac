// The implementations of batched_gemm_nt.
#pragma once
#include "fathom/ops/batched_gemm_nt.hpp"

namespace fathom {
void batched_gemm_nt_ref(const BatchedGemmNtProblem& problem, const BatchedGemmNtArgs& args,
                         const Context& context);
void batched_gemm_nt_cpu(const BatchedGemmNtProblem& problem, const BatchedGemmNtArgs& args,
                         const Context& context);
}  // namespace fathom
