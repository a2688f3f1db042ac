// What the host and the kernels that prepare keys and queries agree on. Compiled by both.
#pragma once
#include "layout/cache.cuh"

namespace fathom {

struct IndexKeyPrepareKernel {
  SimtRows k;
  SimtRows weight, bias;  // one row each
  SimtRotation rotation;
  SimtIntegers slots;
  IndexCacheView cache;
  long long tokens;
  int dim;
  int hadamard, ue8m0;
  float epsilon, hadamard_scale;
};

struct IndexQueryPrepareKernel {
  SimtRows q;
  SimtRotation rotation;
  void* out;  // f8e4m3 or f32; distances count elements
  long long out_row, out_head;
  float* scale;  // or null; [tokens, heads]
  float* gate;   // or null; [tokens, heads]
  long long scale_row, gate_row;
  long long tokens, heads;
  int dim;
  int quantised, hadamard, ue8m0;
  float gate_factor, hadamard_scale;
};

struct MlaPrepareKernel {
  SimtRows latent, rope;
  SimtRows weight;  // one row
  SimtRotation rotation;
  SimtIntegers slots;
  void* cache;
  long long cache_row;  // elements of the cache's type
  long long cache_rows;
  SimtRows q, q_out;
  long long tokens, lora, rope_dim, heads;
  int element;  // as in MlaCacheStoreKernel
  float epsilon;
};

/// Values of a row that one lane of a warp has: a power of two.
inline constexpr int kMostLaneValues = 16;
/// Heads that a warp has at a time, of 32 * each values at most: a lane has 16.
inline constexpr int query_heads_of_a_warp(int each) { return 16 / each; }
/// Pairs of a query that a thread of mla_prepare rotates, and how many threads a head has; blocks of a token: the first
/// one takes its key.
inline constexpr int kMlaPairs = 4;
inline int mla_parts(long long half) { return static_cast<int>((half + kMlaPairs - 1) / kMlaPairs); }
inline int mla_blocks(long long heads, long long half) {
  return 1 + static_cast<int>((heads * mla_parts(half) + kRowThreads - 1) / kRowThreads);
}

/// Elements of a latent row in shared memory at a time.
inline constexpr int kLatentChunk = 1024;

}  // namespace fathom
