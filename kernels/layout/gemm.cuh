// What the host and the matrix product kernels agree on. Compiled by both, so it includes nothing.
#pragma once

namespace fathom {

/// The 128 bytes that describe a tensor to the copy engine, filled by the driver.
struct alignas(64) TensorMap {
  unsigned char bytes[128];
};

/// How scales are stored. `plain` is f32 with any strides; `packed` is UE8M0, four blocks to a 32-bit word.
enum class GemmScale : int { none, plain, packed };

/// How a dense product of the prefill class shares out its last round of tiles, which not all clusters have a tile of:
/// those that have one, the givers, leave the blocks of k from `cut` on of their tile of the round before to the others.
struct GemmShare {
  int cut;     // a multiple of four
  int round;   // before the last, from 0
  int givers;  // clusters with a tile of the last round; at least one has none
  int queue;   // where the launch finds its memory, which no other launch uses at the time; -1: nothing is shared
};

/// Arguments of every matrix product kernel: out[m, n] = tokens[m, k] * weights[n, k]^T.
struct GemmArgs {
  TensorMap tokens;   // [m, k], boxes of 128 bytes x the tile's tokens or slabs of 64, 128-byte swizzle
  TensorMap weights;  // [n, k], likewise; half a tile's where gates and ups are activated
  TensorMap out;      // [m, n] bf16, for stores of whole tiles; counts if out_mapped
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
  GemmShare share;  // counts in the prefill kernel that shares
  int weights_leave;  // L2 before anything else; counts in the prefill kernel of a dense product
};

/// Rows of many groups, each with weights of its own. The maps have a third axis, of groups: that of the weights
/// always, those of tokens and result where every group has a block of its own (masked).
struct GroupedGemmArgs {
  enum Layout : int { contiguous, offsets, masked };
  GemmArgs gemm;                  // m: rows of all groups, or of a block
  TensorMap half_weights;         // those of half a tile, for tiles that have halves
  const int* index;               // a group for every row, offsets, or counts
  long long token_scale_plane;    // masked: elements between neighbouring blocks
  long long out_plane;
  long long weight_scale_plane;  // elements between the scales of neighbouring groups
  Layout layout;
  int groups;
  float* out_scale;  // of what is activated: one for every row and 128 columns, side by side
  long long out_scale_row;
  long long out_scale_plane;
  int queue;  // of tiles, that no other launch uses at the time; -1: every cluster takes every so many'th tile
  int weights_leave;  // L2 before anything else; for swapped tiles
};

/// Queues, of tiles or of what is handed over: first those that launches take in turn, then those of recorded launches,
/// which keep theirs.
constexpr int kTileQueues = 16384;
constexpr int kRecordedTileQueues = 16384;

/// A tile of a grouped product, as the warp that walks tells the others.
struct GroupedTile {
  int token0;  // in its plane; -1: there are no more tiles
  int row0;
  int end;  // the first row of the plane that is not the group's
  int group;
  int plane;   // of tokens and result
  // A bit for each warpgroup: some of its rows name another group and are not stored; all of them do.
  int by_id;
  int idle;
  int half;  // of its columns alone, from row0 on
};

/// The decode kernel: few tokens, so the weights are the 64-row operand, and every segment of k has a block of a
/// cluster. 128-byte blocks of k count.
struct GemmDecodeConfig {
  bool fp8;
  int tokens;         // of a tile: 8, 16, 32, 64 or 128
  int groups;         // warpgroups that multiply, each with its share of the tokens
  int stage_blocks;   // k blocks that arrive together
  int stages;
  int most_segments;  // of k, a power of two
  bool pairs = false;  // bf16: every two blocks of k are summed on their own

  static constexpr int rows = 64;
  constexpr int threads() const { return 128 * groups + 32; }
  constexpr int stage_bytes() const { return stage_blocks * 128 * (rows + tokens); }
  /// k blocks whose scales are held at a time, and floats between the scales of neighbouring tokens: fragments read
  /// from all banks.
  constexpr int scale_blocks() const { return tokens <= 32 ? 64 : 32; }
  constexpr int scale_row() const { return scale_blocks() + 4; }
  constexpr int scale_bytes() const { return fp8 ? tokens * scale_row() * 4 : 0; }
  /// Every block of a cluster sends its sums to the blocks that add them up.
  constexpr int received_bytes() const { return most_segments == 1 ? 0 : tokens * rows * 4; }
  /// Where there is no cluster the sums take the place of the ring, four floats between tokens: on all banks.
  constexpr int ring_bytes() const {
    const int sums = tokens * (rows + 4) * 4;
    const int ring = stages * stage_bytes();
    return ring > sums ? ring : (sums + 1023) / 1024 * 1024;
  }
  constexpr int shared_bytes() const {
    return 1024 + ring_bytes() + received_bytes() + scale_bytes() + 16 * stages + 8;
  }
};

/// The prefill kernel: tiles of block_m tokens by block_n weights, walked by resident blocks.
struct GemmPrefillConfig {
  bool fp8;
  int block_m;    // 64, 128 or 256: one or two warpgroups of 64 rows, or two of 2 x 64
  int block_n;    // a multiple of 16; 256 with 64 or 128 rows
  int stages;
  int cluster_m;  // blocks that share a tile of weights
  int cluster_n;  // blocks that share a tile of tokens
  bool row_scales = false;  // FP8 with scales for every row of the weights
  bool grouped = false;
  /// Of grouped products with few rows each: block_m weights, which are what has to be moved, by block_n tokens. What
  /// is said of tokens and weights elsewhere holds for the two the other way round.
  bool swapped = false;
  /// The last round is shared out (GemmShare).
  bool shares = false;
  /// Of grouped products: a tile has the gates of 128 outputs and then their ups, and silu(gate) * up leaves, quantised.
  bool activates = false;

  constexpr int groups() const { return block_m == 64 ? 1 : 2; }
  constexpr int subs() const { return block_m / (64 * groups()); }
  /// Columns that are multiplied at a time: products of FP8 are apart from their sums, and both are in registers.
  constexpr int columns() const { return fp8 && block_n == 256 ? 128 : block_n; }
  /// Whether two warpgroups share the third of three slabs of 64 rows, by columns.
  constexpr bool thirds() const { return grouped && fp8 && subs() == 2 && block_n == 128; }
  /// Whether the last tiles of a grouped product may be taken in halves of their columns.
  constexpr bool halves() const { return grouped && fp8 && !swapped && !activates && block_n >= 192 && cluster_n == 1; }
  /// Rows of tokens that arrive together. Of tiles whose groups often end within, slabs of 64: those alone that count.
  constexpr int token_box() const { return thirds() ? 64 : block_m / cluster_n; }
  /// Rows of weights that a box of the copy engine has.
  constexpr int weight_box() const { return activates ? block_n / 2 : block_n / cluster_m; }
  /// Products of a warpgroup for a block of k, one after the other.
  constexpr int parts() const { return subs() * (block_n / columns()); }
  constexpr int threads() const { return 128 * (groups() + 1); }
  constexpr int stage_bytes() const { return 128 * (block_m + block_n); }
  static constexpr int scale_blocks = 4;  // k blocks whose scales arrive together
  static constexpr int scale_stages = 3;
  constexpr int token_scales() const { return swapped ? 1 : block_m; }      // of a k block that a tile needs
  constexpr int weight_scales() const { return row_scales ? block_n : 2; }
  constexpr int scale_bytes() const {
    return fp8 ? scale_stages * scale_blocks * 4 * (token_scales() + weight_scales()) : 0;
  }
  /// Whether a tile's whole result has room beside the ring. Otherwise each warp stores by itself, 16 rows of 128 bytes
  /// at a time.
  constexpr bool stores_whole() const { return stages * stage_bytes() + block_m * block_n * 2 <= 208 * 1024; }
  static constexpr int warp_bytes = 16 * 128;
  /// A whole one leaves in boxes of 64 x subs() rows by so many columns, with the swizzle of their width.
  constexpr int store_columns() const { return block_n % 64 == 0 ? 64 : block_n % 32 == 0 ? 32 : 16; }
  constexpr int store_rows() const { return 64 * subs(); }
  static constexpr int swapped_row = 64 + 4;  // floats of a token; four more put a fragment's rows on all banks
  constexpr int store_bytes() const {
    if (swapped) return (groups() * block_n * swapped_row * 4 + 1023) / 1024 * 1024;
    return stores_whole() ? block_m * block_n * 2 : groups() * 4 * warp_bytes;
  }
  /// Tiles that are known ahead, each with its description and two barriers, and numbers on their way from one block of
  /// a cluster to the other, likewise.
  static constexpr int tiles_ahead = 2;
  static constexpr int numbers_ahead = 4;
  constexpr int walk_bytes() const {
    return grouped ? tiles_ahead * (static_cast<int>(sizeof(GroupedTile)) + 16) + numbers_ahead * (4 + 16) : 0;
  }
  static constexpr int most_sharing = 132;  // blocks that memory for sharing is there for
  constexpr int share_bytes() const { return shares ? 8 + 4 : 0; }
  constexpr int shared_bytes() const {
    return 1024 + store_bytes() + stages * stage_bytes() + scale_bytes() + 16 * (stages + scale_stages) +
           walk_bytes() + share_bytes();
  }
};

}  // namespace fathom
