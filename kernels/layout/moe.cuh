// What the host and the kernels around the grouped products of experts agree on. Compiled by both, so it includes
// nothing.
#pragma once

namespace fathom {

/// A warp chooses the experts of one token. Dynamic shared memory: route_shared_bytes() for each of its warps.
struct MoeRouteKernelArgs {
  const float* logits;
  const float* bias;  // null: none
  int* ids;
  float* weights;
  long long logits_row, ids_row, weights_row;  // elements between neighbouring tokens
  long long tokens;
  int experts, n_group, topk_group, top_k;
  int renormalize;
  float scaling;
};
inline constexpr int kRouteMostWarps = 4;
/// Scores, choices, the values of groups and the winners of one token.
inline int route_shared_bytes(int experts, int n_group, int top_k) { return 4 * (2 * experts + n_group + top_k); }

/// Puts every slot of ids [tokens, top_k] in its place among the rows of its expert, and copies rows. Tensors that were
/// not asked for are null.
struct MoePermuteKernelArgs {
  const int* ids;
  int* slot_to_row;
  int* row_to_group;
  int* offsets;
  int* masked_m;
  long long ids_row, slot_to_row_row;                          // elements between neighbouring tokens
  long long row_to_group_step, offsets_step, masked_m_step;  // elements between neighbours
  long long tokens;
  long long rows;  // of the output, or of one group if masked
  long long alignment;
  int top_k, groups, masked;

  const void* x;
  void* out;
  long long width;                     // bytes of a row
  long long x_row, out_row, out_group;  // bytes between neighbours; out_group: masked
  const unsigned* x_scale;             // null: none
  unsigned* out_scale;
  long long scales;  // words of a row
  long long x_scale_row, x_scale_column, out_scale_group, out_scale_row, out_scale_column;  // words
};
inline constexpr int kPermuteThreads = 256;     // of the blocks that copy
inline constexpr int kPermuteFewSlots = 32;     // one for every lane of a warp
inline constexpr int kPermuteMostSlots = 2048;  // placed by every copying block for itself
inline constexpr int kPlaceThreads = 512;       // of the blocks that place slots, a slot each
/// Two or three numbers of every group, and the end of the last one.
inline long long place_shared_bytes(int numbers, long long groups) { return 4 * (numbers * groups + 1); }

struct MoeCombineKernelArgs {
  const void* y;
  const int* slot_to_row;
  const float* weights;
  void* out;
  long long y_row, slot_to_row_row, weights_row, out_row;  // elements between neighbours
  long long tokens, rows, dim;
  int top_k, accumulate;
};
inline constexpr int kCombineThreads = 128;
inline constexpr int kCombineEach = 8;  // columns of a thread

}  // namespace fathom
