// silu_mul_quant on CUDA: cuda:simt, and cuda:ahead, which has a kernel of its own for bf16 on 16 bytes.
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
  bool ahead;   // needs bf16 and `vector`
};

jit::Source source(const Plan& plan) {
  const bool f32 = plan.gate_up == DType::f32;
  const bool ue8m0 = plan.format == ScaleFormat::ue8m0;
  const std::string options =
      plan.ahead ? fmt::format("_ahead<{}, {}, {}, {}>", plan.swizzled, plan.clamp, ue8m0, plan.masked)
                 : fmt::format("<{}, {}, {}, {}, {}, {}>", f32 ? "float" : "unsigned short", plan.swizzled,
                               plan.clamp, ue8m0, plan.vector, plan.masked);
  return {
      fmt::format("silu_mul_quant.{}_{}_{}{}{}{}{}", plan.ahead ? "ahead" : "simt", f32 ? "f32" : "bf16",
                  to_string(plan.format), plan.swizzled ? "_swizzled" : "", plan.clamp ? "_clamp" : "",
                  plan.masked ? "_masked" : "", plan.vector ? "" : "_any"),
      fmt::format("#include \"simt/{}.cuh\"\n"
                  "extern \"C\" __global__ void __launch_bounds__(fathom::kQuantThreads, fathom::{})\n"
                  "fathom_kernel(const __grid_constant__ fathom::SiluMulQuantKernelArgs args) {{\n"
                  "  static_assert(sizeof(fathom::SiluMulQuantKernelArgs) == {});\n"
                  "  fathom::simt::silu_mul_quant{}(args);\n}}\n",
                  plan.ahead ? "silu_ahead" : "silu", plan.ahead ? "kAheadBlocksPerSm" : "kQuantBlocksPerSm",
                  sizeof(SiluMulQuantKernelArgs), options)};
}

Plan plan_of(const SiluMulQuantProblem& problem, bool vector, bool ahead) {
  return {problem.gate_up,
          problem.scale_format,
          problem.swizzled,
          problem.clamp,
          problem.experts > 0,
          vector,
          ahead && vector && problem.gate_up == DType::bf16};
}

void launch(const SiluMulQuantProblem& problem, const SiluMulQuantArgs& args, bool ahead,
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
  const Plan plan = plan_of(problem, vector, ahead);
  unsigned grid = grid_for(matrices * problem.rows * groups, kQuantTeams);
  // As many blocks as run at once take turns: only the device knows how many masked rows count, and who loads
  // ahead needs a next group.
  if (masked || plan.ahead) {
    const int blocks = plan.ahead ? kAheadBlocksPerSm : kQuantBlocksPerSm;
    grid = std::min(grid, static_cast<unsigned>(blocks * cuda::device_context(context).info().num_sms));
  }
  jit::launch(jit::kernel(context, source, plan), {.grid = {grid}, .block = {kQuantThreads}}, context,
              kernel);
}

}  // namespace

void silu_mul_quant_simt(const SiluMulQuantProblem& problem, const SiluMulQuantArgs& args,
                         const Context& context) {
  launch(problem, args, false, context);
}

// Not run on a device yet (docs/status.md), so by name only.
Verdict silu_mul_quant_ahead_can_run(const SiluMulQuantProblem& problem, const Context& context) {
  return when_named(problem, context, "cuda:ahead");
}

void silu_mul_quant_ahead(const SiluMulQuantProblem& problem, const SiluMulQuantArgs& args,
                          const Context& context) {
  launch(problem, args, true, context);
}

KernelSources silu_mul_quant_kernels;
std::vector<jit::Source> silu_mul_quant_kernels(std::string_view text, const cuda::DeviceInfo&) {
  const auto problem = parse_problem<SiluMulQuantProblem>(text);
  std::vector<jit::Source> sources{source(plan_of(problem, false, false))};
  if (problem.dim % kQuantEach != 0) return sources;
  sources.push_back(source(plan_of(problem, true, false)));
  if (problem.gate_up == DType::bf16) sources.push_back(source(plan_of(problem, true, true)));
  return sources;
}

}  // namespace fathom
