#include <algorithm>
#include <limits>

#include "jit/kernel_cache.hpp"
#include "layout/head_gate.cuh"
#include "ops/head_gate/head_gate_impl.hpp"
#include "ops/kernels.hpp"
#include "ops/sm90_gemm.hpp"

namespace fathom {
namespace {

struct Plan {
  std::int32_t x_f32;
  std::int32_t w_f32;
};

Plan plan_of(const HeadGateProblem& problem) { return {problem.x == DType::f32, problem.w == DType::f32}; }

jit::Source source(const Plan& plan) {
  const auto type = [](bool f32) { return std::string(f32 ? "float" : "unsigned short"); };
  const auto name = [](bool f32) { return std::string(f32 ? "f32" : "bf16"); };
  return {"head_gate.simt_" + name(plan.x_f32 != 0) + "_" + name(plan.w_f32 != 0),
          "#include \"simt/head_gate.cuh\"\n"
          "extern \"C\" __global__ void __launch_bounds__(fathom::kHeadGateThreads)\n"
          "fathom_kernel(const __grid_constant__ fathom::HeadGateKernelArgs args) {\n"
          "  static_assert(sizeof(fathom::HeadGateKernelArgs) == " +
              std::to_string(sizeof(HeadGateKernelArgs)) + ");\n  fathom::simt::head_gate<" +
              type(plan.x_f32 != 0) + ", " + type(plan.w_f32 != 0) + ">(args);\n}\n"};
}

}  // namespace

void head_gate_simt(const HeadGateProblem& problem, const HeadGateArgs& args, const Context& context) {
  if (problem.tokens == 0 || problem.heads == 0) return;
  const HeadGateKernelArgs kernel{.x = args.x.data,
                                  .w = args.w.data,
                                  .q_scale = problem.q_scale ? args.q_scale.as<const float>() : nullptr,
                                  .out = args.out.as<float>(),
                                  .x_row = args.x.step(0),
                                  .w_row = args.w.step(0),
                                  .q_scale_row = problem.q_scale ? args.q_scale.step(0) : 0,
                                  .out_row = args.out.step(0),
                                  .tokens = problem.tokens,
                                  .heads = problem.heads,
                                  .hidden = problem.hidden,
                                  .factor = head_gate_factor(problem, args)};
  constexpr std::int64_t kMostBlocks = std::numeric_limits<std::int32_t>::max();
  constexpr std::int64_t kWarps = kHeadGateThreads / 32;
  const std::int64_t blocks = std::min((problem.tokens * problem.heads + kWarps - 1) / kWarps, kMostBlocks);
  jit::launch(jit::kernel(context, source, plan_of(problem)),
              {.grid = {static_cast<unsigned>(blocks)}, .block = {kHeadGateThreads}}, context, kernel);
}

KernelSources head_gate_kernels;
std::vector<jit::Source> head_gate_kernels(std::string_view text, const cuda::DeviceInfo& device) {
  const auto problem = parse_problem<HeadGateProblem>(text);
  std::vector<jit::Source> sources{source(plan_of(problem))};
  if (device.sm() == 90 && problem.x == DType::bf16 && problem.hidden > 0)
    sources.push_back(sm90_gemm_source(plan_sm90_gemm(head_gate_shape(problem), device).kernel));
  return sources;
}

}  // namespace fathom
