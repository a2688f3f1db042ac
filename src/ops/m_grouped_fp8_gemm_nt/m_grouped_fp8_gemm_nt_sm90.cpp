// m_grouped_fp8_gemm_nt on Hopper.
#include "ops/kernels.hpp"
#include "ops/m_grouped_fp8_gemm_nt/m_grouped_fp8_gemm_nt_impl.hpp"
#include "ops/sm90_grouped.hpp"

namespace fathom {
Verdict m_grouped_fp8_gemm_nt_sm90_can_run(const MGroupedFp8GemmNtProblem& problem, const Context& context) {
  return sm90_grouped_verdict(sm90_grouped_shape(problem, true), problem.aligned, context);
}

void m_grouped_fp8_gemm_nt_sm90(const MGroupedFp8GemmNtProblem& problem, const MGroupedFp8GemmNtArgs& args,
                                const Context& context) {
  run_sm90_grouped(sm90_grouped_shape(problem, true), problem.layout, grouped_tensors(args), context);
}

KernelSources m_grouped_fp8_gemm_nt_kernels;
std::vector<jit::Source> m_grouped_fp8_gemm_nt_kernels(std::string_view problem,
                                                       const cuda::DeviceInfo& device) {
  return grouped_sources(sm90_grouped_shape(parse_problem<MGroupedFp8GemmNtProblem>(problem), true), device);
}

}  // namespace fathom
