// What the host and the matrix product kernels agree on. Compiled by both, so it includes nothing.
#pragma once

namespace fathom {

/// The 128 bytes that describe a tensor to the copy engine, filled by the driver.
struct alignas(64) TensorMap {
  unsigned char bytes[128];
};

/// How scales are stored. `plain` is f32 with any strides; `packed` is UE8M0, four blocks to a 32-bit word.
enum class GemmScale : int { none, plain, packed };

/// Arguments of every matrix product kernel: out[m, n] = tokens[m, k] * weights[n, k]^T.
struct GemmArgs {
  TensorMap tokens;   // [m, k], boxes of 128 bytes x the tile's tokens, 128-byte swizzle
  TensorMap weights;  // [n, k], likewise
  TensorMap out;      // [m, n] bf16, for the prefill kernel's stores; counts if out_mapped
  const void* token_scale;
  long long token_scale_row;    // elements between scales of neighbouring tokens
  long long token_scale_block;  // elements between scales (packed: words) of neighbouring k blocks
  const float* weight_scale;    // a scale for 128 rows and 128 columns, or as those of tokens for every row
  long long weight_scale_row;
  long long weight_scale_block;
  void* out_data;
  long long out_row;  // elements between rows of out
  int m;
  int n;
  int blocks;  // 128-byte blocks of k, the last may be short
  GemmScale token_scale_kind;
  GemmScale weight_scale_kind;  // packed only if every row has scales
  int out_f32;     // 0: bf16
  int accumulate;  // adds to out, which is f32
  int out_mapped;
  int overlapped;  // starts before the grid it depends on has ended
  int gated;       // bf16 products to f32 are multiplied by gate_factor, and by gate[m, n] if that is given
  float gate_factor;
  const float* gate;
  long long gate_row;
};

/// The decode kernel: few tokens, so the weights are the 64-row operand, and every segment of k has a block of a
/// cluster. 128-byte blocks of k count.
struct GemmDecodeConfig {
  bool fp8;
  int tokens;        // of a tile: 8, 16, 32 or 64
  int groups;        // warpgroups that multiply, each 64 weights
  int stage_blocks;  // k blocks that arrive together
  int stages;

  constexpr int rows() const { return 64 * groups; }
  constexpr int threads() const { return 128 * groups + 32; }
  constexpr int stage_bytes() const { return stage_blocks * 128 * (rows() + tokens); }
  static constexpr int scale_blocks = 64;  // k blocks whose scales are held at a time
  constexpr int scale_bytes() const { return fp8 ? scale_blocks * (tokens + 2) * 4 : 0; }
  /// Small sums are sent to the block that adds them up, word by word, and have a place of their own there. Large
  /// ones stay where they are, in the place of the ring, and are fetched.
  constexpr bool sends() const { return tokens * rows() <= 2048; }
  constexpr int sum_bytes() const { return tokens * (rows() + 4) * 4; }
  constexpr int ring_bytes() const {
    return sends() || stages * stage_bytes() > sum_bytes() ? stages * stage_bytes() : (sum_bytes() + 1023) / 1024 * 1024;
  }
  constexpr int shared_bytes() const {
    return 1024 + ring_bytes() + (sends() ? sum_bytes() : 0) + scale_bytes() + 16 * stages + 8;
  }
};

/// The prefill kernel: tiles of block_m tokens by block_n weights, walked by resident blocks.
struct GemmPrefillConfig {
  bool fp8;
  int block_m;    // 64, 128 or 256: one or two warpgroups of 64 rows, or two of 2 x 64
  int block_n;    // a multiple of 16
  int stages;
  int cluster_m;  // blocks that share a tile of weights
  int cluster_n;  // blocks that share a tile of tokens
  bool row_scales = false;  // FP8 with scales for every row of the weights

  constexpr int groups() const { return block_m == 64 ? 1 : 2; }
  constexpr int subs() const { return block_m / (64 * groups()); }
  constexpr int threads() const { return 128 * (groups() + 1); }
  constexpr int stage_bytes() const { return 128 * (block_m + block_n); }
  static constexpr int scale_blocks = 4;  // k blocks whose scales arrive together
  static constexpr int scale_stages = 3;
  constexpr int weight_scales() const { return row_scales ? block_n : 2; }  // of a k block that a tile needs
  constexpr int scale_bytes() const {
    return fp8 ? scale_stages * scale_blocks * 4 * (block_m + weight_scales()) : 0;
  }
  /// Results leave in boxes of 64 x subs() rows by so many columns, with the swizzle of their width.
  constexpr int store_columns() const { return block_n % 64 == 0 ? 64 : block_n % 32 == 0 ? 32 : 16; }
  constexpr int store_rows() const { return 64 * subs(); }
  constexpr int store_bytes() const { return block_m * block_n * 2; }
  constexpr int shared_bytes() const {
    return 1024 + store_bytes() + stages * stage_bytes() + scale_bytes() + 16 * (stages + scale_stages);
  }
};

}  // namespace fathom
