#include <fmt/format.h>

#include "jit/kernel_cache.hpp"
#include "layout/silu.cuh"
#include "ops/kernels.hpp"
#include "ops/silu_mul/silu_mul_impl.hpp"
#include "ops/simt_quant.hpp"

namespace fathom {
namespace {

struct Plan {
  DType gate_up;
  DType out;
  bool clamp;
  bool vector;  // rows on 16 bytes, dim a multiple of kSiluEach
};

std::string_view type_of(DType dtype) { return dtype == DType::f32 ? "float" : "unsigned short"; }

jit::Source source(const Plan& plan) {
  return {fmt::format("silu_mul.simt_{}_{}{}{}", to_string(plan.gate_up), to_string(plan.out),
                      plan.clamp ? "_clamp" : "", plan.vector ? "" : "_any"),
          fmt::format("#include \"simt/silu.cuh\"\n"
                      "extern \"C\" __global__ void __launch_bounds__(fathom::kSiluThreads)\n"
                      "fathom_kernel(const __grid_constant__ fathom::SiluMulKernelArgs args) {{\n"
                      "  static_assert(sizeof(fathom::SiluMulKernelArgs) == {});\n"
                      "  fathom::simt::silu_mul<{}, {}, {}, {}>(args);\n}}\n",
                      sizeof(SiluMulKernelArgs), type_of(plan.gate_up), type_of(plan.out), plan.clamp,
                      plan.vector)};
}

}  // namespace

void silu_mul_simt(const SiluMulProblem& problem, const SiluMulArgs& args, const Context& context) {
  if (problem.rows == 0) return;
  float limit = args.clamp_limit.value_or(0);
  if (problem.gate_up == DType::bf16) limit = bf16_to_float(float_to_bf16(limit));
  const Plan plan{
      problem.gate_up, problem.out, problem.clamp,
      problem.dim % kSiluEach == 0 && rows_on_16_bytes(args.gate_up) && rows_on_16_bytes(args.out)};
  const SiluMulKernelArgs kernel{.gate_up = args.gate_up.data,
                                 .out = args.out.data,
                                 .gate_up_row = args.gate_up.step(0),
                                 .out_row = args.out.step(0),
                                 .rows = problem.rows,
                                 .dim = problem.dim,
                                 .limit = limit};
  const std::int64_t pieces = problem.rows * ((problem.dim + kSiluEach - 1) / kSiluEach);
  jit::launch(jit::kernel(context, source, plan),
              {.grid = {grid_for(pieces, kSiluThreads)}, .block = {kSiluThreads}}, context, kernel);
}

KernelSources silu_mul_kernels;
std::vector<jit::Source> silu_mul_kernels(std::string_view text, const cuda::DeviceInfo&) {
  const auto problem = parse_problem<SiluMulProblem>(text);
  std::vector<jit::Source> sources{source({problem.gate_up, problem.out, problem.clamp, false})};
  if (problem.dim % kSiluEach == 0)
    sources.push_back(source({problem.gate_up, problem.out, problem.clamp, true}));
  return sources;
}

}  // namespace fathom
