// A tile of keys times a set of tokens, and the sum over heads, of the indexer's scores on Hopper: every kernel
// multiplies and adds in this order, so that a score is the same in all of them.
#pragma once
#include "ptx/wgmma.cuh"

namespace fathom {

/// Begins to multiply: `keys` and `tokens` are descriptors of 128-byte rows, of which kDim bytes count.
template <int kColumns, int kDim>
__device__ __forceinline__ void sm90_mqa_multiply(float (&d)[kColumns / 2], u32 keys, u32 tokens) {
  ptx::wgmma_fence();
#pragma unroll
  for (int k = 0; k < kDim / 32; ++k) {
    ptx::Wgmma<true, kColumns>::multiply(d, ptx::wgmma_descriptor(keys + 2 * k),
                                         ptx::wgmma_descriptor(tokens + 2 * k), k > 0);
  }
  ptx::wgmma_commit_group();
}
/// Waits for these products, but not for those of the kLater that began last.
template <int kLater, int kCount>
__device__ __forceinline__ void sm90_mqa_wait(float (&d)[kCount]) {
  ptx::wgmma_wait_group<kLater>();
#pragma unroll
  for (float& value : d) ptx::keep(value);
}

/// The weights of a thread's heads, two of every eight, as sm90_mqa_sum takes them: `weights` is a token's
/// first.
template <int kHeads>
__device__ __forceinline__ void sm90_mqa_weights(const float* weights, float (&mine)[kHeads / 4]) {
#pragma unroll
  for (int j = 0; j < kHeads / 8; ++j) {
    const float2 w = *reinterpret_cast<const float2*>(weights + 8 * j + 2 * (threadIdx.x % 4));
    mine[2 * j] = 0.5f * w.x;
    mine[2 * j + 1] = w.y;
  }
}

/// A thread's part of the sums of the keys of its two rows with kTokens tokens, whose products with them are
/// `d`. Half of the maxima are additions, with half of the weight: d + |d| is 2 * max(0, d), and additions
/// and maxima have pipes of their own.
template <int kTokens, int kHeads>
__device__ __forceinline__ void sm90_mqa_sum(const float (&weights)[kTokens][kHeads / 4],
                                             const float (&d)[kTokens * kHeads / 2],
                                             float (&sum)[kTokens][2]) {
#pragma unroll
  for (int t = 0; t < kTokens; ++t) sum[t][0] = sum[t][1] = 0;
#pragma unroll
  for (int j = 0; j < kHeads / 4; ++j) {
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float dot = d[t * kHeads / 2 + j / 2 * 4 + 2 * h + j % 2];
        sum[t][h] = __fmaf_rn(weights[t][j], j % 2 ? fmaxf(dot, 0.0f) : dot + fabsf(dot), sum[t][h]);
      }
    }
  }
}

/// Four lanes have parts of the sums of two keys with the tokens of two sets. Each sends those that are not its
/// own, and keeps those of kTokens keys: with two tokens a set lane i has those of token i, otherwise lane i
/// those of token i / 2 with key i % 2.
template <int kTokens>
__device__ __forceinline__ void sm90_mqa_exchange(const float (&sum)[2][kTokens][2], float (&mine)[kTokens]) {
  const bool high = threadIdx.x & 2;
  const bool odd = threadIdx.x & 1;
  float kept[kTokens][2];
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float other = __shfl_xor_sync(~0u, high ? sum[0][t][h] : sum[1][t][h], 2);
      kept[t][h] = (high ? sum[1][t][h] : sum[0][t][h]) + other;
    }
  }
#pragma unroll
  for (int i = 0; i < kTokens; ++i) {
    const float& even_one = kept[0][i];
    const float& odd_one = kTokens == 2 ? kept[kTokens - 1][i] : kept[0][1];
    const float other = __shfl_xor_sync(~0u, odd ? even_one : odd_one, 1);
    mine[i] = (odd ? odd_one : even_one) + other;
  }
}

}  // namespace fathom
