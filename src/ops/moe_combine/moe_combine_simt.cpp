// moe_combine on CUDA: see kernels/simt/moe_combine.cuh.
#include <fmt/format.h>

#include "jit/kernel_cache.hpp"
#include "layout/moe.cuh"
#include "ops/kernels.hpp"
#include "ops/moe_combine/moe_combine_impl.hpp"
#include "ops/simt_quant.hpp"

namespace fathom {
namespace {

struct Plan {
  DType y;
  DType out;
  bool vector;  // rows of y and out on 16 bytes, dim a multiple of kCombineEach
};

std::string_view type_of(DType dtype) { return dtype == DType::f32 ? "float" : "unsigned short"; }

jit::Source source(const Plan& plan) {
  return {fmt::format("moe_combine.simt_{}_{}{}", to_string(plan.y), to_string(plan.out),
                      plan.vector ? "" : "_any"),
          fmt::format("#include \"simt/moe_combine.cuh\"\n"
                      "extern \"C\" __global__ void __launch_bounds__(fathom::kCombineThreads)\n"
                      "fathom_kernel(const __grid_constant__ fathom::MoeCombineKernelArgs args) {{\n"
                      "  static_assert(sizeof(fathom::MoeCombineKernelArgs) == {});\n"
                      "  fathom::simt::moe_combine<{}, {}, {}>(args);\n}}\n",
                      sizeof(MoeCombineKernelArgs), type_of(plan.y), type_of(plan.out), plan.vector)};
}

}  // namespace

void moe_combine_simt(const MoeCombineProblem& problem, const MoeCombineArgs& args, const Context& context) {
  if (problem.tokens == 0 || problem.dim == 0) return;
  const Plan plan{problem.y, problem.out,
                  problem.dim % kCombineEach == 0 && rows_on_16_bytes(args.y) && rows_on_16_bytes(args.out)};
  const MoeCombineKernelArgs kernel{.y = args.y.data,
                                    .slot_to_row = args.slot_to_row.as<const int>(),
                                    .weights = args.weights.as<const float>(),
                                    .out = args.out.data,
                                    .y_row = args.y.step(0),
                                    .slot_to_row_row = args.slot_to_row.step(0),
                                    .weights_row = args.weights.step(0),
                                    .out_row = args.out.step(0),
                                    .tokens = problem.tokens,
                                    .rows = problem.rows,
                                    .dim = problem.dim,
                                    .top_k = static_cast<int>(problem.top_k),
                                    .accumulate = problem.accumulate};
  const std::int64_t items = problem.tokens * ((problem.dim + kCombineEach - 1) / kCombineEach);
  jit::launch(jit::kernel(context, source, plan),
              {.grid = {grid_for(items, kCombineThreads)}, .block = {kCombineThreads}}, context, kernel);
}

KernelSources moe_combine_kernels;
std::vector<jit::Source> moe_combine_kernels(std::string_view text, const cuda::DeviceInfo&) {
  const auto problem = parse_problem<MoeCombineProblem>(text);
  std::vector<jit::Source> sources{source({problem.y, problem.out, false})};
  if (problem.dim % kCombineEach == 0) sources.push_back(source({problem.y, problem.out, true}));
  return sources;
}

}  // namespace fathom
