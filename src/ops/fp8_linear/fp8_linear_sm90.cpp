#include <fmt/format.h>

#include "jit/kernel_cache.hpp"
#include "layout/fp8_linear.cuh"
#include "ops/fp8_linear/fp8_linear_impl.hpp"
#include "ops/kernels.hpp"
#include "ops/sm90_gemm.hpp"

namespace fathom {
namespace {

constexpr std::int64_t kMostTokens = 16;
constexpr std::int64_t kMostK = 16384;  // as many scales of weights as a warp holds

struct Plan {
  std::int32_t tokens;
  std::int32_t stages;
  std::int32_t rule;
  std::int32_t ue8m0;
};

int segments_of(const Fp8LinearProblem& problem) {
  return sm90_gemm_segments(/*fp8=*/true, problem.decode, problem.n, problem.k);
}
std::int64_t blocks_of(const Fp8LinearProblem& problem) {
  return (problem.n + Fp8LinearConfig::rows - 1) / Fp8LinearConfig::rows * segments_of(problem);
}

// Two blocks share a multiprocessor, three where there are more than start at once: clusters of blocks that
// fill one each do not all find room at a time.
Plan plan_of(const Fp8LinearProblem& problem, const cuda::DeviceInfo& device) {
  const int tokens = problem.m <= 8 ? 8 : 16;
  const bool crowded = blocks_of(problem) > 2 * device.num_sms;
  return {.tokens = tokens,
          .stages = (tokens == 8 ? 4 : 3) - (crowded ? 1 : 0),
          .rule = static_cast<std::int32_t>(problem.rule),
          .ue8m0 = problem.scale_format == ScaleFormat::ue8m0};
}
Fp8LinearConfig config_of(const Plan& plan) { return {.tokens = plan.tokens, .stages = plan.stages}; }

jit::Source source(const Plan& plan) {
  const std::string rule(to_string(static_cast<QuantRule>(plan.rule)));
  return {fmt::format("fp8_linear.sm90_{}_{}_m{}s{}", rule, plan.ue8m0 != 0 ? "ue8m0" : "f32", plan.tokens,
                      plan.stages),
          fmt::format("#include \"sm90/fp8_linear.cuh\"\n"
                      "namespace fathom {{\n"
                      "constexpr Fp8LinearConfig kConfig{{.tokens = {}, .stages = {}}};\n"
                      "static_assert(sizeof(Fp8LinearKernelArgs) == {} && kConfig.shared_bytes() == {});\n"
                      "}}\n"
                      "extern \"C\" __global__ void __launch_bounds__(fathom::kConfig.threads, 2)\n"
                      "fathom_kernel(const __grid_constant__ fathom::Fp8LinearKernelArgs args) {{\n"
                      "  fathom::fp8_linear<fathom::kConfig, {}, {}>(args);\n"
                      "}}\n",
                      plan.tokens, plan.stages, sizeof(Fp8LinearKernelArgs), config_of(plan).shared_bytes(),
                      plan.rule, plan.ue8m0 != 0)};
}

bool suits(const Fp8LinearProblem& problem) {
  return problem.m <= kMostTokens && problem.x == DType::bf16 && problem.k <= kMostK;
}

}  // namespace

Verdict fp8_linear_sm90_can_run(const Fp8LinearProblem& problem, const Context& context) {
  if (problem.m > kMostTokens) return decline("needs at most 16 rows of x, got " + std::to_string(problem.m));
  if (problem.x != DType::bf16) return decline("needs bf16 x, got " + std::string(to_string(problem.x)));
  if (problem.k > kMostK) return decline("needs k of at most 16384, got " + std::to_string(problem.k));
  const Verdict verdict = sm90_gemm_verdict(
      {.decode = problem.decode, .m = problem.m, .n = problem.n, .k = problem.k}, problem.aligned, context);
  if (verdict) return verdict;
  // Long rows are quantised again by every block that multiplies them: two launches are faster then, though a
  // gap lies between them (docs/performance_hopper.md).
  if (problem.k <= (problem.m <= 8 ? 2048 : 1536)) return accept;
  return when_named(problem, context, "sm90:fused");
}

void fp8_linear_sm90(const Fp8LinearProblem& given, const Fp8LinearArgs& args, const Context& context) {
  if (given.m == 0 || given.n == 0) return;
  Fp8LinearProblem problem = given;
  problem.decode = in_decode_class(given.decode, context);
  const Plan plan = plan_of(problem, cuda::device_context(context).info());
  const jit::Kernel& kernel = jit::kernel(context, source, plan);
  if (context.compile_mode() == CompileMode::compile_only) return;
  Fp8LinearKernelArgs arguments{};
  arguments.weights = sm90_operand_map(args.w, Fp8LinearConfig::rows, context);
  arguments.x = sm90_operand_map(args.x, plan.tokens, context);
  arguments.weight_scale = args.w_scale.as<const float>();
  arguments.weight_scale_row = args.w_scale.step(0);
  arguments.weight_scale_block = args.w_scale.step(1);
  arguments.out_data = args.out.data;
  arguments.out_row = args.out.step(0);
  arguments.m = static_cast<int>(problem.m);
  arguments.n = static_cast<int>(problem.n);
  arguments.k = static_cast<int>(problem.k);
  arguments.out_f32 = problem.out == DType::f32;
  arguments.accumulate = problem.accumulate;
  arguments.overlapped = context.options().dependent_launch;
  jit::launch(kernel,
              {.grid = {static_cast<unsigned>(blocks_of(problem))},
               .block = {Fp8LinearConfig::threads},
               .cluster = {static_cast<unsigned>(segments_of(problem))},
               .shared_bytes = config_of(plan).shared_bytes(),
               .pdl = arguments.overlapped != 0},
              context, arguments);
}

KernelSources quantize_groups_kernels;
KernelSources fp8_gemm_nt_kernels;
KernelSources fp8_linear_kernels;
std::vector<jit::Source> fp8_linear_kernels(std::string_view text, const cuda::DeviceInfo& device) {
  const auto problem = parse_problem<Fp8LinearProblem>(text);
  std::vector<jit::Source> sources =
      quantize_groups_kernels(problem_string(QuantizeGroupsProblem{.tokens = problem.m,
                                                                   .k = problem.k,
                                                                   .x = problem.x,
                                                                   .rule = problem.rule,
                                                                   .scale_format = problem.scale_format}),
                              device);
  for (jit::Source& step : fp8_gemm_nt_kernels(problem_string(Fp8GemmNtProblem{.m = problem.m,
                           .n = problem.n,
                           .k = problem.k,
                           .out = problem.out,
                           .accumulate = problem.accumulate,
                           .decode = problem.decode}),
                                               device)) {
    sources.push_back(std::move(step));
  }
  if (device.sm() == 90 && suits(problem)) sources.push_back(source(plan_of(problem, device)));
  return sources;
}

}  // namespace fathom
