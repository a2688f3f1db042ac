#include <fmt/format.h>

#include "cuda/device_context.hpp"
#include "jit/kernel_cache.hpp"
#include "layout/silu.cuh"
#include "ops/kernels.hpp"
#include "ops/silu_mul_quant/silu_mul_quant_impl.hpp"
#include "ops/simt_quant.hpp"

namespace fathom {
namespace {

struct Plan {
  DType gate_up;
  ScaleFormat format;
  bool swizzled;
  bool clamp;
  bool masked;
  bool vector;  // rows of gate_up and q on 16 bytes, dim a multiple of kQuantEach
};

jit::Source source(const Plan& plan) {
  const bool f32 = plan.gate_up == DType::f32;
  return {
      fmt::format("silu_mul_quant.simt_{}_{}{}{}{}{}", f32 ? "f32" : "bf16", to_string(plan.format),
                  plan.swizzled ? "_swizzled" : "", plan.clamp ? "_clamp" : "", plan.masked ? "_masked" : "",
                  plan.vector ? "" : "_any"),
      fmt::format(
          "#include \"simt/silu.cuh\"\n"
          "extern \"C\" __global__ void __launch_bounds__(fathom::kQuantThreads, fathom::kQuantBlocksPerSm)\n"
          "fathom_kernel(const __grid_constant__ fathom::SiluMulQuantKernelArgs args) {{\n"
          "  static_assert(sizeof(fathom::SiluMulQuantKernelArgs) == {});\n"
          "  fathom::simt::silu_mul_quant<{}, {}, {}, {}, {}, {}>(args);\n}}\n",
          sizeof(SiluMulQuantKernelArgs), f32 ? "float" : "unsigned short", plan.swizzled, plan.clamp,
          plan.format == ScaleFormat::ue8m0, plan.vector, plan.masked)};
}

Plan plan_of(const SiluMulQuantProblem& problem, bool vector) {
  return {problem.gate_up, problem.scale_format, problem.swizzled,
          problem.clamp,   problem.experts > 0,  vector};
}

}  // namespace

void silu_mul_quant_simt(const SiluMulQuantProblem& problem, const SiluMulQuantArgs& args,
                         const Context& context) {
  const bool masked = args.masked_m.given();
  const std::int64_t matrices = masked ? problem.experts : 1;
  if (matrices == 0 || problem.rows == 0) return;
  float limit = args.clamp_limit.value_or(0);
  if (problem.gate_up == DType::bf16) limit = bf16_to_float(float_to_bf16(limit));
  const bool vector =
      problem.dim % kQuantEach == 0 && rows_on_16_bytes(args.gate_up) && rows_on_16_bytes(args.q);
  const std::int64_t groups = scale_groups(problem.dim);
  const int row_axis = masked ? 1 : 0;
  const SiluMulQuantKernelArgs kernel{.gate_up = args.gate_up.data,
                                      .q = args.q.data,
                                      .masked_m = masked ? args.masked_m.as<const int>() : nullptr,
                                      .masked_m_step = masked ? args.masked_m.step(0) : 0,
                                      .experts = matrices,
                                      .rows = problem.rows,
                                      .dim = problem.dim,
                                      .gate_up_matrix = masked ? args.gate_up.step(0) : 0,
                                      .gate_up_row = args.gate_up.step(row_axis),
                                      .q_matrix = masked ? args.q.step(0) : 0,
                                      .q_row = args.q.step(row_axis),
                                      .scale = scale_target(args.scale, problem.scale_layout, groups),
                                      .limit = limit};
  unsigned grid = grid_for(matrices * problem.rows * groups, kQuantTeams);
  // Only the device knows how many rows count: as many blocks as run at once take turns.
  if (masked)
    grid = std::min(grid,
                    kQuantBlocksPerSm * static_cast<unsigned>(cuda::device_context(context).info().num_sms));
  jit::launch(jit::kernel(context, source, plan_of(problem, vector)),
              {.grid = {grid}, .block = {kQuantThreads}}, context, kernel);
}

KernelSources silu_mul_quant_kernels;
std::vector<jit::Source> silu_mul_quant_kernels(std::string_view text, const cuda::DeviceInfo&) {
  const auto problem = parse_problem<SiluMulQuantProblem>(text);
  std::vector<jit::Source> sources{source(plan_of(problem, false))};
  if (problem.dim % kQuantEach == 0) sources.push_back(source(plan_of(problem, true)));
  return sources;
}

}  // namespace fathom
