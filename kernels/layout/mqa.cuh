// What the host and the kernels of the indexer's scores agree on. Compiled by both.
#pragma once
#include "layout/cache.cuh"

namespace fathom {

/// Queries [rows, heads, dim] with a weight for each head, f8e4m3 or f32 as the kernel says. Row r of a paged call is
/// token r % next_n of request r / next_n.
struct MqaQueries {
  const void* data;
  long long request, token, head;  // elements
  const float* weights;
  long long weights_row;
  long long rows, next_n, heads, dim;
};

struct MqaLogitsKernel {
  MqaQueries q;
  const void* k;
  long long k_row;
  const float* k_scale;  // none: 1
  SimtIntegers first, last;
  float* logits;
  long long logits_row;
  long long keys;
};

struct PagedMqaLogitsKernel {
  MqaQueries q;
  IndexCacheView cache;
  BlockTable block_table;
  const int* context_lens;  // [batch, next_n]
  long long lens_row, lens_step;
  float* logits;
  long long logits_row;
  long long max_len;
};

/// A block of threads scores this many keys with one query token, this many heads at a time.
inline constexpr int kMqaKeys = 64;
inline constexpr int kMqaHeads = 64;

}  // namespace fathom
