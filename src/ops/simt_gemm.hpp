// The general matrix product on CUDA, for the ops whose last entry it is. See kernels/simt/gemm.cuh.
#pragma once
#include "fathom/core/context.hpp"
#include "fathom/core/tensor.hpp"
#include "jit/jit.hpp"
#include "layout/simt_gemm.cuh"

namespace fathom {

enum class SimtElement : std::int32_t { f8e4m3, bf16 };

struct SimtGemmPlan {
  SimtElement element;
};

jit::Source simt_gemm_source(const SimtGemmPlan& plan);

/// out[m, n] = a[m, k] * b[n, k]^T of validated tensors; scales may follow.
SimtGemmArgs simt_gemm_args(const TensorView& a, const TensorView& b, const TensorView& out, bool accumulate);
/// A scale of [rows, groups], f32 or packed UE8M0, each for `rows_per_scale` rows of its operand.
SimtScale simt_scale(const TensorView& scale, int rows_per_scale);

/// Blocks of the grid for m x n: one for each tile, as far as a grid reaches.
unsigned simt_gemm_grid(std::int64_t m, std::int64_t n);

void run_simt_gemm(const SimtGemmPlan& plan, const SimtGemmArgs& args, const Context& context);

}  // namespace fathom
