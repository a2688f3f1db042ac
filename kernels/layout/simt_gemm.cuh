// What the host and the general matrix product kernel agree on. Compiled by both, so it includes nothing.
#pragma once

namespace fathom {

/// Scales of one operand: f32 with any strides, or UE8M0 exponents packed four to a word. None: 1.
struct SimtScale {
  const void* data;
  long long row_stride;    // elements between the scales of neighbouring rows (or blocks of rows)
  long long group_stride;  // elements between neighbouring groups of k (packed: words)
  int rows_per_scale;      // 1 or 128
  int packed;
};

/// out[m, n] = a[m, k] * b[n, k]^T, any sizes and strides. Elements of a and b are f8e4m3 or bf16, as the kernel
/// says.
struct SimtGemmArgs {
  const void* a;
  const void* b;
  void* out;
  long long m, n, k;
  long long a_row, b_row, out_row;  // elements between neighbouring rows
  SimtScale a_scale, b_scale;
  int out_bf16;    // 0: f32
  int accumulate;  // adds to what out holds
};

/// The same for every group of a batch; `gemm` describes the first. Elements from one group to the next.
struct SimtBatchedGemmArgs {
  SimtGemmArgs gemm;
  long long groups;
  long long a_group, b_group, out_group, b_scale_group;
};

/// Rows of many groups, each with weights of its own. `gemm` describes the rows of all groups (of the first block
/// in the masked layout), without b and its scales.
struct SimtGroupedArgs {
  static constexpr int kMost = 64;  // groups of one launch: an array of matrices anywhere must fit in 4 KB
  enum Layout : int { contiguous, offsets, masked };
  struct Weights {
    const void* b;
    const void* b_scale;
    long long b_row, b_scale_row;
  };
  SimtGemmArgs gemm;
  long long a_block, out_block, a_scale_block;  // masked: elements between neighbouring blocks
  const int* index;                             // a group for every row, offsets, or counts
  Layout layout;
  int groups;
  int first, last;  // groups of this launch, whose weights follow
  Weights weights[kMost];
};

/// A block of threads computes one tile, each thread 4x4 elements of it.
inline constexpr int kSimtTile = 64;
inline constexpr int kSimtThreads = 256;

}  // namespace fathom
