// What the host and the product that quantises its own activations agree on. Compiled by both.
#pragma once
#include "layout/gemm.cuh"

namespace fathom {

/// out[m, n] = quantised(x[m, k]) * weights[n, k]^T.
struct Fp8LinearKernelArgs {
  TensorMap weights;  // [n, k], boxes of 128 x 64, 128-byte swizzle
  const void* x;      // bf16
  long long x_row;    // elements between rows
  const float* weight_scale;  // a scale for 128 rows and 128 columns
  long long weight_scale_row;
  long long weight_scale_block;
  void* out_data;
  long long out_row;
  int m;
  int n;
  int k;
  int out_f32;
  int accumulate;
  int overlapped;  // starts before the grid it depends on has ended
};

/// One warpgroup quantises, one multiplies, and a warp fetches weights: 64 of them a block, and every segment of k has
/// a block of a cluster.
struct Fp8LinearConfig {
  int tokens;  // 8 or 16
  int stages;

  static constexpr int rows = 64;
  static constexpr int stage_blocks = 2;  // k blocks of 128 that arrive together
  static constexpr int threads = 288;
  constexpr int stage_bytes() const { return stage_blocks * 128 * (rows + tokens); }
  constexpr int scale_bytes() const { return stages * stage_blocks * tokens * 4; }
  /// Tokens as they come, with the scales of the weights they meet: for each of four warps, stages, and eight tokens.
  constexpr int raw_bytes() const { return 4 * stages * (tokens / 8) * (1024 + 16); }
  constexpr int sum_bytes() const { return tokens * (rows + 4) * 4; }
  constexpr int shared_bytes() const { 
    return 1024 + stages * stage_bytes() + scale_bytes() + sum_bytes() + raw_bytes() + 16 * stages;
  }
};

}  // namespace fathom
