// The sum over heads of the indexer's scores on Hopper: every kernel adds in this order, so that a score is
// the same in all of them.
#pragma once
#include "ptx/types.cuh"

namespace fathom {

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

}  // namespace fathom
