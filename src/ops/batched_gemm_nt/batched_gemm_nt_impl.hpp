// The implementations of batched_gemm_nt.
#pragma once
#include "fathom/ops/batched_gemm_nt.hpp"
#include "layout/simt_gemm.cuh"
#include "ops/dispatch.hpp"
#include "ops/kernels.hpp"

namespace fathom {
void batched_gemm_nt_ref(const BatchedGemmNtProblem& problem, const BatchedGemmNtArgs& args,
                         const Context& context);
void batched_gemm_nt_cpu(const BatchedGemmNtProblem& problem, const BatchedGemmNtArgs& args,
                         const Context& context);
Verdict batched_gemm_nt_simt_can_run(const BatchedGemmNtProblem& problem, const Context& context);
void batched_gemm_nt_simt(const BatchedGemmNtProblem& problem, const BatchedGemmNtArgs& args,
                          const Context& context);
SimtBatchedGemmArgs batched_gemm_nt_kernel(const BatchedGemmNtProblem& problem,
                                           const BatchedGemmNtArgs& args);
Verdict batched_gemm_nt_sm90_can_run(const BatchedGemmNtProblem& problem, const Context& context);
void batched_gemm_nt_sm90(const BatchedGemmNtProblem& problem, const BatchedGemmNtArgs& args,
                          const Context& context);
/// Its kernel, or none where it declines.
std::vector<jit::Source> batched_gemm_nt_sm90_kernels(const BatchedGemmNtProblem& problem,
                                                      const cuda::DeviceInfo& device);
}  // namespace fathom
