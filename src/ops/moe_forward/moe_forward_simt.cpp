// moe_forward on CUDA: the chain of moe_forward_cpu.cpp, whose ops launch device code there.
#include "fathom/ops/fp8_gemm_nt.hpp"
#include "fathom/ops/m_grouped_fp8_gemm_nt.hpp"
#include "fathom/ops/moe_combine.hpp"
#include "fathom/ops/moe_permute.hpp"
#include "fathom/ops/quantize_groups.hpp"
#include "fathom/ops/silu_mul_quant.hpp"
#include "ops/kernels.hpp"
#include "ops/moe_forward/moe_forward_impl.hpp"

namespace fathom {

KernelSources moe_forward_kernels;
std::vector<jit::Source> moe_forward_kernels(std::string_view text, const cuda::DeviceInfo& device) {
  const auto p = parse_problem<MoeForwardProblem>(text);
  const MoeForwardParts parts(p);
  const bool masked = p.layout == GroupLayout::masked;
  const auto grouped = [&](std::int64_t n, std::int64_t k) {
    return problem_string(MGroupedFp8GemmNtProblem{.groups = p.experts,
                                                   .rows = parts.rows,
                                                   .n = n,
                                                   .k = k,
                                                   .layout = p.layout,
                                                   .out = p.inner,
                                                   .expected_m = parts.expected_m});
  };
  const auto silu = [&](std::int64_t experts, std::int64_t rows, std::int64_t dim) {
    return problem_string(
        SiluMulQuantProblem{.experts = experts, .rows = rows, .dim = dim, .gate_up = p.inner});
  };
  std::vector<std::string> problems{
      problem_string(QuantizeGroupsProblem{.tokens = p.tokens, .k = p.hidden, .x = p.x}),
      problem_string(MoePermuteProblem{.tokens = p.tokens,
                                       .top_k = p.top_k,
                                       .groups = p.experts,
                                       .dim = p.hidden,
                                       .scales = scale_groups(p.hidden),
                                       .rows = parts.rows,
                                       .masked = masked,
                                       .x = DType::f8e4m3}),
      grouped(2 * p.intermediate, p.hidden),
      silu(masked ? p.experts : 0, parts.rows, p.intermediate),
      grouped(p.hidden, p.intermediate),
      problem_string(MoeCombineProblem{.tokens = p.tokens,
                                       .top_k = p.top_k,
                                       .rows = parts.all_rows,
                                       .dim = p.hidden,
                                       .y = p.inner,
                                       .out = p.out})};
  if (p.shared > 0) {
    problems.push_back(problem_string(Fp8GemmNtProblem{
        .m = p.tokens, .n = 2 * p.shared, .k = p.hidden, .out = p.inner, .decode = p.decode}));
    problems.push_back(silu(0, p.tokens, p.shared));
    problems.push_back(problem_string(Fp8GemmNtProblem{.m = p.tokens,
                                                       .n = p.hidden,
                                                       .k = p.shared,
                                                       .out = p.out,
                                                       .accumulate = p.accumulate,
                                                       .decode = p.decode}));
  }
  std::vector<jit::Source> sources = kernel_sources(problems, device);
  for (jit::Source& source : moe_forward_fused_sources(p, device)) sources.push_back(std::move(source));
  return sources;
}

}  // namespace fathom
