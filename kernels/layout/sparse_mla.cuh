// What the host and the general attention kernel agree on. Compiled by both.
#pragma once
#include "layout/rows.cuh"

namespace fathom {

struct SparseMlaKernel {
  SimtRows q, out;
  const void* cache;
  long long cache_row, slots;  // bytes between entries, number of entries
  const int* indices;
  long long indices_row;
  long long tokens;
  int heads, lora, rope_dim, top_k;
  int element;  // bytes of the cache's type: 4 (f32), 2 (bf16) or 1 (quantised)
  float softmax_scale;
  const int* lengths;  // none: top_k each
  long long lengths_step;
  const float* sink;  // none: no sink
  float* lse;         // none: not written
  long long lse_row;
};

/// A block has one token, 16 heads and 512 columns of the output, and takes 16 entries at a time.
inline constexpr int kMlaHeads = 16;
inline constexpr int kMlaEntries = 16;
inline constexpr int kMlaColumns = 512;

/// Floats from row to row of what is in shared memory: 16 bytes more, so that rows begin in different banks.
inline constexpr int mla_row(int width) { return (width + 3) / 4 * 4 + 4; }
inline constexpr long long mla_shared_bytes(int width) { return 4LL * mla_row(width) * (kMlaHeads + kMlaEntries); }

}  // namespace fathom
