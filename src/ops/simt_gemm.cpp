#include "ops/simt_gemm.hpp"

#include <algorithm>
#include <limits>

#include "jit/kernel_cache.hpp"

namespace fathom {

jit::Source simt_gemm_source(const SimtGemmPlan& plan) {
  const bool fp8 = plan.element == SimtElement::f8e4m3;
  return {std::string("gemm.simt_") + (fp8 ? "f8e4m3" : "bf16"),
          std::string("#include \"simt/gemm.cuh\"\n"
                      "extern \"C\" __global__ void __launch_bounds__(fathom::kSimtThreads)\n"
                      "fathom_kernel(const __grid_constant__ fathom::SimtGemmArgs args) {\n"
                      "  static_assert(sizeof(fathom::SimtGemmArgs) == ") +
              std::to_string(sizeof(SimtGemmArgs)) +
              ");\n  fathom::simt::gemm<fathom::simt::" + (fp8 ? "F8e4m3" : "Bf16") + ">(args);\n}\n"};
}

SimtGemmArgs simt_gemm_args(const TensorView& a, const TensorView& b, const TensorView& out,
                            bool accumulate) {
  SimtGemmArgs args{};
  args.a = a.data;
  args.b = b.data;
  args.out = out.data;
  args.m = a.size(0);
  args.n = b.size(0);
  args.k = a.size(1);
  args.a_row = a.step(0);
  args.b_row = b.step(0);
  args.out_row = out.step(0);
  args.out_bf16 = out.dtype == DType::bf16;
  args.accumulate = accumulate;
  return args;
}

SimtScale simt_scale(const TensorView& scale, int rows_per_scale) {
  return {.data = scale.data,
          .row_stride = scale.step(0),
          .group_stride = scale.step(1),
          .rows_per_scale = rows_per_scale,
          .packed = scale.dtype == DType::i32};
}

unsigned simt_gemm_grid(std::int64_t m, std::int64_t n) {
  const auto tiles_of = [](std::int64_t size) { return (size + kSimtTile - 1) / kSimtTile; };
  constexpr std::int64_t kMostBlocks = std::numeric_limits<std::int32_t>::max();
  // Neither factor is above 2^57, and a matrix of 2^31 tiles fits in no memory yet: no overflow to fear.
  return static_cast<unsigned>(std::min(tiles_of(m) * tiles_of(n), kMostBlocks));
}

void run_simt_gemm(const SimtGemmPlan& plan, const SimtGemmArgs& args, const Context& context) {
  if (args.m == 0 || args.n == 0) return;
  const jit::Kernel& kernel = jit::kernel(context, simt_gemm_source, plan);
  jit::launch(kernel, {.grid = {simt_gemm_grid(args.m, args.n)}, .block = {kSimtThreads}}, context, args);
}

}  // namespace fathom
