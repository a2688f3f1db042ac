// What the host and the kernels that write and read the paged caches agree on. Compiled by both.
#pragma once
#include "layout/rows.cuh"

namespace fathom {

/// A cache of index keys: u8 pages of keys and then their scales, or f32 keys. Kernels know how many and how long.
struct IndexCacheView {
  void* data;
  long long page;  // to the next page, in elements of the cache's type
  long long key;   // to the next key of a page, f32 only
  long long pages;
  int f32;
};
/// Pages of a request, i32.
struct BlockTable {
  const int* data;
  long long row, step;
  long long rows, pages;  // rows, and entries of a row
};

struct IndexKeyStoreKernel {
  SimtRows k;
  SimtIntegers slots;
  IndexCacheView cache;
  long long tokens, dim;
  int ue8m0;
};

struct IndexKeyGatherKernel {
  IndexCacheView cache;
  BlockTable block_table;
  SimtIntegers lens;
  void* keys;          // [total, dim], bytes or f32
  long long keys_row;  // elements
  float* scales;
  long long batch, total, dim;
};

struct MlaCacheStoreKernel {
  SimtRows latent, rope;
  SimtIntegers slots;
  void* cache;
  long long cache_row;  // elements of the cache's type
  long long cache_rows;
  long long tokens, lora, rope_dim;
  int element;  // bytes of the cache's type: 4 (f32), 2 (bf16) or 1 (quantised)
};

struct PagedMqaScheduleKernel {
  const int* context_lens;  // [batch, next_n]
  long long lens_row, lens_step;
  int* schedule;  // [workers + 1, 2]
  long long batch, next_n, workers;
};

inline constexpr int kScheduleSplitKeys = 256;

}  // namespace fathom
