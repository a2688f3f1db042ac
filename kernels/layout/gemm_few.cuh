// What the host and the kernel for few weights agree on. Compiled by both, so it includes nothing.
#pragma once

namespace fathom {

/// out[m, n] = tokens[m, k] * weights[n, k]^T, bf16; rows begin at multiples of 16 bytes.
struct GemmFewArgs {
  const unsigned short* tokens;
  const unsigned short* weights;
  long long token_row;  // elements between rows
  long long weight_row;
  void* out_data;
  long long out_row;
  int m;
  int n;
  int k;           // a multiple of 8
  int out_f32;     // 0: bf16
  int accumulate;  // adds to out, which is f32
  int overlapped;  // starts before the grid it depends on has ended
  int gated;       // as in GemmArgs
  float gate_factor;
  const float* gate;
  long long gate_row;
};

/// A block multiplies `rows` weights by `tokens` tokens over a segment of k; the blocks of a cluster have a segment each.
struct GemmFewConfig {
  int rows;       // a multiple of 16, as_wgmma of 8
  int tokens;     // a multiple of 8, as_wgmma of 16
  bool as_wgmma;  // the same sums as the decode kernel's with `pairs`, for k up to most_as_wgmma; by way of shared memory

  // These fix the order of sums.
  static constexpr int segments = 8;
  static constexpr int warps = 7;
  static constexpr int block = 64;  // elements of k

  static constexpr int pair = 2;    // blocks that a warp sums at a time
  static constexpr int most_as_wgmma = segments * warps * pair * block;
  constexpr int threads() const { return 32 * warps; }
  /// Where two blocks fit a multiprocessor.
  constexpr int blocks() const { return rows * tokens <= 512 ? 2 : 1; }
  /// Floats between tokens of a warp's sums: fragments are written to all banks.
  constexpr int row() const { return !as_wgmma ? rows + 4 : rows % 16 == 0 ? rows + 8 : rows; }
  /// A warp's sums, or before them its operands.
  constexpr int warp_bytes() const { return as_wgmma ? (rows + tokens) * 2 * pair * block : 4 * tokens * row(); }
  constexpr int received_bytes() const { return 4 * rows * tokens; }
  constexpr int shared_bytes() const { return warps * warp_bytes() + received_bytes() + 16; }
};

}  // namespace fathom
