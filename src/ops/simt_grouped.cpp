#include "ops/simt_grouped.hpp"

#include <algorithm>
#include <limits>

#include "jit/kernel_cache.hpp"
#include "ops/gemm_scales.hpp"

namespace fathom {
namespace {

// The first block's rows as a matrix.
TensorView first_block(const TensorView& t) { return row_block(t, 0, 0, t.size(t.rank - 2)); }

unsigned grid_of(const SimtGroupedArgs& args) {
  const auto tiles_of = [](std::int64_t size) { return (size + kSimtTile - 1) / kSimtTile; };
  std::int64_t rows = tiles_of(args.gemm.m);
  if (args.layout == SimtGroupedArgs::offsets) rows += args.groups;
  if (args.layout == SimtGroupedArgs::masked) rows *= args.groups;
  return static_cast<unsigned>(
      std::min<std::int64_t>(rows * tiles_of(args.gemm.n), std::numeric_limits<std::int32_t>::max()));
}

}  // namespace

jit::Source simt_grouped_source(const SimtGemmPlan& plan) {
  const bool fp8 = plan.element == SimtElement::f8e4m3;
  return {std::string("grouped_gemm.simt_") + (fp8 ? "f8e4m3" : "bf16"),
          std::string("#include \"simt/grouped_gemm.cuh\"\n"
                      "extern \"C\" __global__ void __launch_bounds__(fathom::kSimtThreads)\n"
                      "fathom_kernel(const __grid_constant__ fathom::SimtGroupedArgs args) {\n"
                      "  static_assert(sizeof(fathom::SimtGroupedArgs) == ") +
              std::to_string(sizeof(SimtGroupedArgs)) + ");\n  fathom::simt::grouped_gemm<fathom::simt::" +
              (fp8 ? "F8e4m3" : "Bf16") + ">(args);\n}\n"};
}

SimtGroupedArgs simt_grouped_args(GroupLayout layout, const GroupedTensors& tensors) {
  static_assert(sizeof(SimtGroupedArgs) <= 4096, "what every driver takes");
  SimtGroupedArgs args{};
  args.gemm = simt_gemm_args(first_block(tensors.a), tensors.b[0], first_block(tensors.out), false);
  if (tensors.a_scale.given()) {
    args.gemm.a_scale = simt_scale(first_block(tensors.a_scale), 1);
    args.gemm.b_scale = simt_scale(tensors.b_scale[0], static_cast<int>(kScaleGroup));
  }
  if (layout == GroupLayout::masked) {
    args.layout = SimtGroupedArgs::masked;
    args.index = tensors.rows.masked_m.as<const int>();
    args.a_block = tensors.a.step(0);
    args.out_block = tensors.out.step(0);
    if (tensors.a_scale.given()) args.a_scale_block = tensors.a_scale.step(0);
  } else if (layout == GroupLayout::offsets) {
    args.layout = SimtGroupedArgs::offsets;
    args.index = tensors.rows.offsets.as<const int>();
  } else {
    args.layout = SimtGroupedArgs::contiguous;
    args.index = tensors.rows.row_to_group.as<const int>();
  }
  args.groups = static_cast<int>(tensors.b.size());
  return args;
}

void run_simt_grouped(const SimtGemmPlan& plan, GroupLayout layout, const GroupedTensors& tensors,
                      const Context& context) {
  SimtGroupedArgs args = simt_grouped_args(layout, tensors);
  if (args.gemm.m == 0 || args.gemm.n == 0) return;
  const jit::Kernel& kernel = jit::kernel(context, simt_grouped_source, plan);
  for (args.first = 0; args.first < args.groups; args.first = args.last) {
    args.last = std::min(args.groups, args.first + SimtGroupedArgs::kMost);
    for (int g = args.first; g < args.last; ++g) {
      const auto at = static_cast<std::size_t>(g);
      SimtGroupedArgs::Weights& weights = args.weights[g - args.first];
      weights = {
          .b = tensors.b[at].data, .b_scale = nullptr, .b_row = tensors.b[at].step(0), .b_scale_row = 0};
      if (tensors.b_scale.empty()) continue;
      weights.b_scale = tensors.b_scale[at].data;
      weights.b_scale_row = tensors.b_scale[at].step(0);
    }
    jit::launch(kernel, {.grid = {grid_of(args)}, .block = {kSimtThreads}}, context, args);
  }
}

}  // namespace fathom
