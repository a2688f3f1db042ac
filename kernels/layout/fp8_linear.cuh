// What the host and the product that quantises its own activations agree on. Compiled by both.
#pragma once
#include "layout/gemm.cuh"

namespace fathom {

/// out[m, n] = quantised(x[m, k]) * weights[n, k]^T.
struct Fp8LinearKernelArgs {
  TensorMap weights;  // [n, k], boxes of 128 x 64, 128-byte swizzle
  TensorMap x;        // [m, k] bf16, boxes of 64 x the tile's tokens, likewise
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

/// One warpgroup quantises, one multiplies, and a warp fetches for both: 64 weights a block, and every segment of k has
/// a block of a cluster.
struct Fp8LinearConfig {
  int tokens;  // 8 or 16
  int stages;

  static constexpr int rows = 64;
  static constexpr int stage_blocks = 2;  // k blocks of 128 that arrive together
  static constexpr int threads = 288;
  constexpr int stage_bytes() const { return stage_blocks * 128 * (rows + tokens); }
  constexpr int scale_bytes() const { return stages * stage_blocks * tokens * 4; }
  constexpr int raw_bytes() const { return stages * stage_blocks * tokens * 256; }  // tokens as they come
  constexpr int sum_bytes() const { return tokens * (rows + 4) * 4; }
  constexpr int shared_bytes() const {
    return 1024 + stages * stage_bytes() + scale_bytes() + sum_bytes() + raw_bytes() + 24 * stages;
  }
};

}  // namespace fathom
