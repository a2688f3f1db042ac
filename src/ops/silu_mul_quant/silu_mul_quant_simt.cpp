// silu_mul_quant on CUDA: see kernels/simt/silu.cuh.
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
  SiluRows rows;
  bool vector;  // rows of gate_up and q on 16 bytes, dim a multiple of kQuantEach
};

jit::Source source(const Plan& plan) {
  constexpr struct {
    const char *name, *suffix;
  } kRows[] = {{"matrix", ""}, {"one", "_masked"}, {"each", "_masked_all"}};
  const bool f32 = plan.gate_up == DType::f32;
  return {
      fmt::format("silu_mul_quant.simt_{}_{}{}{}{}{}", f32 ? "f32" : "bf16", to_string(plan.format),
                  plan.swizzled ? "_swizzled" : "", plan.clamp ? "_clamp" : "",
                  kRows[static_cast<int>(plan.rows)].suffix, plan.vector ? "" : "_any"),
      fmt::format("#include \"simt/silu.cuh\"\n"
                  "extern \"C\" __global__ void __launch_bounds__(fathom::kQuantThreads, {})\n"
                  "fathom_kernel(const __grid_constant__ fathom::SiluMulQuantKernelArgs args) {{\n"
                  "  static_assert(sizeof(fathom::SiluMulQuantKernelArgs) == {});\n"
                  "  fathom::simt::silu_mul_quant<{}, {}, {}, {}, {}, fathom::SiluRows::{}>(args);\n}}\n",
                  silu_quant_blocks_per_sm(!f32), sizeof(SiluMulQuantKernelArgs),
                  f32 ? "float" : "unsigned short", plan.swizzled, plan.clamp,
                  plan.format == ScaleFormat::ue8m0, plan.vector, kRows[static_cast<int>(plan.rows)].name)};
}

struct Launch {
  SiluRows rows;
  std::int64_t blocks;  // for every expert if they have their own
};

// As many blocks as run at once take turns: a block needs a next group to load ahead, and only the device
// knows how many masked rows count.
Launch launch_of(const SiluMulQuantProblem& problem, int num_sms) {
  const std::int64_t most = silu_quant_blocks_per_sm(problem.gate_up == DType::bf16) * num_sms;
  const std::int64_t experts = problem.experts;
  const std::int64_t all = grid_for(problem.rows * scale_groups(problem.dim), kQuantTeams);
  if (experts == 0) return {SiluRows::matrix, std::min(all, most)};
  // Experts of few rows have blocks of their own, which know at once what to do, and are no worse off if one
  // expert has all rows.
  constexpr std::int64_t kMostTurns = 32;
  constexpr std::int64_t kMostExperts = 65535;  // blocks along the second axis
  const std::int64_t own = std::min(all, (2 * most + experts - 1) / experts);
  if (all <= kMostTurns * own && experts <= kMostExperts) return {SiluRows::one, own};
  return {SiluRows::each, std::min(experts * all, most)};
}

Plan plan_of(const SiluMulQuantProblem& problem, int num_sms, bool vector) {
  return {problem.gate_up,
          problem.scale_format,
          problem.swizzled,
          problem.clamp,
          launch_of(problem, num_sms).rows,
          vector};
}

}  // namespace

void silu_mul_quant_simt(const SiluMulQuantProblem& problem, const SiluMulQuantArgs& args,
                         const Context& context) {
  const bool masked = args.masked_m.given();
  const std::int64_t matrices = masked ? problem.experts : 1;
  if (matrices == 0 || problem.rows == 0 || problem.dim == 0) return;
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
  const int num_sms = cuda::device_context(context).info().num_sms;
  const Launch launch = launch_of(problem, num_sms);
  const auto experts = static_cast<unsigned>(launch.rows == SiluRows::one ? matrices : 1);
  jit::launch(jit::kernel(context, source, plan_of(problem, num_sms, vector)),
              {.grid = {static_cast<unsigned>(launch.blocks), experts}, .block = {kQuantThreads}}, context,
              kernel);
}

KernelSources silu_mul_quant_kernels;
std::vector<jit::Source> silu_mul_quant_kernels(std::string_view text, const cuda::DeviceInfo& device) {
  const auto problem = parse_problem<SiluMulQuantProblem>(text);
  std::vector<jit::Source> sources{source(plan_of(problem, device.num_sms, false))};
  if (problem.dim % kQuantEach == 0) sources.push_back(source(plan_of(problem, device.num_sms, true)));
  return sources;
}

}  // namespace fathom
