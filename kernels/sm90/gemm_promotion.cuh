// How the prefill kernel adds the products of an FP8 block of k to their sum in f32, with the scales of both operands.
#pragma once
#include "layout/gemm.cuh"
#include "ptx/barrier.cuh"
#include "ptx/memory.cuh"
#include "ptx/wgmma.cuh"

namespace fathom {

/// A stage of the ring of scales: those of block_m tokens, four k blocks each, then those of the weights: of every
/// column, four k blocks each, or of the two rows of 128 x 128 blocks that a tile may touch.
template <GemmPrefillConfig c>
struct ScaleStage {
  static constexpr int kTokens = c.scale_blocks * c.token_scales();  // floats
  static constexpr int kWeights = c.scale_blocks * c.weight_scales();
  static constexpr int kFloats = kTokens + kWeights;
};

/// The scales of one k block that a thread needs, and where the next are.
template <GemmPrefillConfig c>
struct BlockScales {
  u32 row, weight, full, empty;  // shared addresses in stage 0
  u32 stage = 0;
  u32 phase = 0;
  u32 part = 0;
  u32 third = 0;  // bytes from a thread's row of the first slab to that of the third, if a tile has three
  float token[c.subs()][2];
  float weights[2];

  /// Of a thread's first scale of weights in stage 0.
  static __device__ u32 weight_address(u32 scales) {
    const u32 first = scales + ScaleStage<c>::kTokens * 4;
    if constexpr (c.row_scales) return ptx::pinned(first + threadIdx.x % 4 * 2 * c.scale_blocks * 4);
    if constexpr (!c.grouped) return ptx::pinned(first);
    // By way of what differs between threads: scales that the assembler knows to be the same for a warp it moves to
    // uniform registers, and the next product waits for that.
    const u32 thread = ptx::pinned(threadIdx.x);
    return ptx::pinned(first + thread) - thread;
  }
  __device__ u32 place() const { return stage * (ScaleStage<c>::kFloats * 4) + 4 * part; }
  template <bool kThird = false>
  __device__ void read() {
    const u32 at = place();
    if constexpr (!c.row_scales) {
      weights[0] = ptx::ld_shared(weight + at);
      if constexpr (128 % c.block_n != 0) weights[1] = ptx::ld_shared(weight + at + 4 * c.scale_blocks);
    }
    if constexpr (c.swapped) {
      token[0][0] = token[0][1] = ptx::ld_shared(row + at);
    } else {
#pragma unroll
      for (int s = 0; s < c.subs(); ++s) {
        const u32 slab = s * (kThird ? third : 64 * c.scale_blocks * 4);
        token[s][0] = ptx::ld_shared(row + at + slab);
        token[s][1] = ptx::ld_shared(row + at + slab + 8 * c.scale_blocks * 4);
      }
    }
  }
  __device__ void wait() const { ptx::mbarrier_wait(full + 8 * stage, phase); }
  __device__ void next_stage() {
    __syncwarp();
    if (threadIdx.x % 32 == 0) ptx::mbarrier_arrive(empty + 8 * stage);
    part = 0;
    if (++stage == c.scale_stages) {
      stage = 0;
      phase ^= 1;
    }
  }
};

/// One product of a k block: 64 tokens by c.columns().
template <GemmPrefillConfig c>
using Products = float[c.columns() / 2];

/// A product, added to its sum with its scales. Columns change to the next row of weight scales at `border`, which is a
/// multiple of 128, or as far as the columns go.
template <GemmPrefillConfig c>
struct Promotion {
  float scale[2][2];  // [row of weight scales][token half]

  Promotion() = default;
  __device__ Promotion(const float (&token)[2], float weight, float next_weight)
      : scale{{token[0] * weight, token[1] * weight}, {token[0] * next_weight, token[1] * next_weight}} {}

  /// Half of a part's columns, of one row of weight scales.
  __device__ void add_half(float (&sum)[c.block_n / 2], float (&block_sum)[c.block_n / 4]) const {
#pragma unroll
    for (float& value : block_sum) ptx::keep(value);
#pragma unroll
    for (int i = 0; i < c.block_n / 4; ++i) sum[i] = fmaf(block_sum[i], scale[0][i / 2 % 2], sum[i]);
  }
  template <int kSums>
  __device__ void add(float (&sum)[kSums], float (&block_sum)[kSums], int border) const {
    constexpr int kColumns = 2 * kSums;
    constexpr int kRegion = kColumns % 128 == 0 ? 128 : kColumns & -kColumns;
#pragma unroll
    for (float& value : block_sum) ptx::keep(value);
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j) {
      // Products that divide 128 never leave their row of weight scales.
      const bool second = 128 % kColumns != 0 && 8 * j / kRegion * kRegion >= border;
      const float low = second ? scale[1][0] : scale[0][0];
      const float high = second ? scale[1][1] : scale[0][1];
      sum[4 * j] = fmaf(block_sum[4 * j], low, sum[4 * j]);
      sum[4 * j + 1] = fmaf(block_sum[4 * j + 1], low, sum[4 * j + 1]);
      sum[4 * j + 2] = fmaf(block_sum[4 * j + 2], high, sum[4 * j + 2]);
      sum[4 * j + 3] = fmaf(block_sum[4 * j + 3], high, sum[4 * j + 3]);
    }
  }
};

/// The same for columns with a scale each and rows that share one, as swapped tiles have them.
template <GemmPrefillConfig c>
struct ColumnPromotion {
  float scale[c.block_n / 4];

  __device__ explicit ColumnPromotion(const BlockScales<c>& at) {
    const u32 first = at.weight + at.place();
#pragma unroll
    for (int i = 0; i < c.block_n / 4; ++i) {
      scale[i] = ptx::ld_shared(first + (8 * (i / 2) + i % 2) * c.scale_blocks * 4) * at.token[0][0];
    }
  }
  __device__ void add(float (&sum)[c.block_n / 2], float (&block_sum)[c.block_n / 2]) const {
#pragma unroll
    for (int i = 0; i < c.block_n / 2; ++i) sum[i] = fmaf(block_sum[i], scale[i / 4 * 2 + i % 2], sum[i]);
  }
};

/// The same where every column has scales of its own: too many for registers, so they are read as they are needed.
/// `weight` is the shared address of the scale of a thread's first column.
template <GemmPrefillConfig c>
__device__ __forceinline__ void add_by_column(float (&sum)[c.block_n / 2], float (&block_sum)[c.block_n / 2],
                                              const float (&token)[2], u32 weight) {
#pragma unroll
  for (float& value : block_sum) ptx::keep(value);
#pragma unroll
  for (int j = 0; j < c.block_n / 8; ++j) {
    const float even = ptx::ld_shared(weight + 8 * j * c.scale_blocks * 4);
    const float odd = ptx::ld_shared(weight + (8 * j + 1) * c.scale_blocks * 4);
    sum[4 * j] = fmaf(block_sum[4 * j], token[0] * even, sum[4 * j]);
    sum[4 * j + 1] = fmaf(block_sum[4 * j + 1], token[0] * odd, sum[4 * j + 1]);
    sum[4 * j + 2] = fmaf(block_sum[4 * j + 2], token[1] * even, sum[4 * j + 2]);
    sum[4 * j + 3] = fmaf(block_sum[4 * j + 3], token[1] * odd, sum[4 * j + 3]);
  }
}

}  // namespace fathom
