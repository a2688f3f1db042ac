#include "jit/kernel_cache.hpp"
#include "ops/batched_gemm_nt/batched_gemm_nt_impl.hpp"
#include "ops/kernels.hpp"
#include "ops/simt_gemm.hpp"
#include "ops/simt_kernel.hpp"

namespace fathom {
namespace {

struct Plan {
  std::int32_t fp8;  // of the weights
};

jit::Source source(const Plan& plan) {
  const std::string element = plan.fp8 != 0 ? "F8e4m3" : "Bf16";
  return {plan.fp8 != 0 ? "batched_gemm.simt_f8e4m3" : "batched_gemm.simt_bf16",
          "#include \"simt/batched_gemm.cuh\"\n"
          "extern \"C\" __global__ void __launch_bounds__(fathom::kSimtThreads)\n"
          "fathom_kernel(const __grid_constant__ fathom::SimtBatchedGemmArgs args) {\n"
          "  static_assert(sizeof(fathom::SimtBatchedGemmArgs) == " +
              std::to_string(sizeof(SimtBatchedGemmArgs)) +
              ");\n  fathom::simt::batched_gemm<fathom::simt::" + element + ">(args);\n}\n"};
}

/// [tokens, groups, k] of the first group, or [groups, n, k] without its first axis.
TensorView without_axis(TensorView x, std::size_t axis) {
  x.rank = 2;
  for (std::size_t i = axis; i < 2; ++i) {
    x.shape[i] = x.shape[i + 1];
    x.stride[i] = x.stride[i + 1];
  }
  return x;
}

}  // namespace

Verdict batched_gemm_nt_simt_can_run(const BatchedGemmNtProblem& problem, const Context&) {
  if (problem.x != DType::bf16) return decline("needs x in bf16, got f32");
  return accept;
}

SimtBatchedGemmArgs batched_gemm_nt_kernel(const BatchedGemmNtProblem& problem,
                                           const BatchedGemmNtArgs& args) {
  SimtBatchedGemmArgs kernel{
      .gemm = simt_gemm_args(without_axis(args.x, 1), without_axis(args.w, 0), without_axis(args.out, 1),
                             /*accumulate=*/false),
      .groups = problem.groups,
      .a_group = args.x.step(1),
      .b_group = args.w.step(0),
      .out_group = args.out.step(1)};
  if (args.w_scale.given()) {
    kernel.gemm.b_scale = simt_scale(without_axis(args.w_scale, 0), 128);
    kernel.b_scale_group = args.w_scale.step(0);
  }
  return kernel;
}

void batched_gemm_nt_simt(const BatchedGemmNtProblem& problem, const BatchedGemmNtArgs& args,
                          const Context& context) {
  if (problem.tokens == 0 || problem.groups == 0 || problem.n == 0) return;
  const SimtBatchedGemmArgs kernel = batched_gemm_nt_kernel(problem, args);
  const jit::Kernel& code = jit::kernel(context, source, Plan{problem.w == DType::f8e4m3});
  const unsigned groups = simt_blocks(problem.groups, 1, kGridAxis);
  jit::launch(code, {.grid = {simt_gemm_grid(problem.tokens, problem.n), groups}, .block = {kSimtThreads}},
              context, kernel);
}

KernelSources batched_gemm_nt_kernels;
std::vector<jit::Source> batched_gemm_nt_kernels(std::string_view text, const cuda::DeviceInfo& device) {
  const auto problem = parse_problem<BatchedGemmNtProblem>(text);
  if (problem.x != DType::bf16) return {};
  std::vector<jit::Source> sources = batched_gemm_nt_sm90_kernels(problem, device);
  sources.push_back(source({problem.w == DType::f8e4m3}));
  return sources;
}

}  // namespace fathom
