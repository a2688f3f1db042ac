// The sums of a warpgroup's tile in the prefill kernel: the products of the k blocks that the ring brings, those of FP8
// promoted to f32 with their scales.
#pragma once
#include "layout/gemm.cuh"
#include "ptx/wgmma.cuh"
#include "sm90/gemm_promotion.cuh"
#include "sm90/gemm_ring.cuh"

namespace fathom {

template <GemmPrefillConfig c>
struct GemmSums {
  using Reader = typename GemmRing<c>::Reader;

  /// Whether registers hold two products beside their sums.
  static constexpr bool kAhead = c.subs() == 1 && c.block_n <= (c.groups() == 1 ? 144 : 128);

  const GemmRing<c>& ring;
  int blocks;  // of k

  /// So many blocks of k for a tile whose first column is row0. `single`: of two slabs or halves only
  /// the first counts.
  __device__ void add(float (&sum)[c.subs()][c.block_n / 2], int row0, bool single, Reader& at,
                      BlockScales<c>& scale) const {
    if constexpr (!c.fp8) {
      add_plain(sum, at);
    } else if constexpr (c.swapped) {
      add_swapped(sum[0], at, scale);
    } else if constexpr (c.row_scales) {
      add_scaled_by_column(sum[0], at, scale);
    } else if constexpr (kAhead) {
      add_ahead(sum[0], 128 - row0 % 128, at, scale);
    } else {
      if constexpr (c.grouped && (c.subs() == 2 || c.halves())) {
        constexpr int kColumns = c.subs() == 2 ? c.columns() : c.block_n / 2;
        if (single) return add_scaled<1, false, kColumns>(sum, 128 - row0 % 128, at, scale);
      }
      add_scaled<c.parts()>(sum, 128 - row0 % 128, at, scale);
    }
  }

  /// Of a tile whose rows end in its third slab of 64: a warpgroup's own slab, and of the third its half of the columns.
  __device__ void add_third(float (&sum)[c.subs()][c.block_n / 2], u32 group, Reader& at, BlockScales<c>& scale) const {
    constexpr u32 kSlab = 64 * 128 / 16;
    constexpr u32 kScales = 64 * c.scale_blocks * 4;
    at.a -= group * kSlab;
    scale.row -= group * kScales;
    scale.third = (2 - group) * kScales;
    add_scaled<1, true>(sum, 128, at, scale, (2 - group) * kSlab, group * kSlab);
    at.a += group * kSlab;
    scale.row += group * kScales;
  }

  /// Parts are other rows, or with one sub other columns.
  template <int kSums>
  static __device__ void multiply(float (&d)[kSums], const Reader& at, int part, int add) {
    const u32 a = at.a + at.stage * (c.stage_bytes() / 16) + (c.subs() > 1 ? part : 0) * (64 * 128 / 16);
    const u32 b = at.b + at.stage * (c.stage_bytes() / 16) + (c.subs() > 1 ? 0 : part) * (c.columns() * 128 / 16);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      ptx::Wgmma<c.fp8, 2 * kSums>::multiply(d, ptx::wgmma_descriptor(a + 2 * k), ptx::wgmma_descriptor(b + 2 * k),
                                             k > 0 ? 1 : add);
    }
  }

  /// FP8 where one product at a time is under way, for the first kParts. While the tensor cores work on a block's first,
  /// the next block's scales are read; while they work on its last, its arrival is awaited: both behind one product would
  /// last longer than that. The other warpgroup multiplies while this one promotes. With kThird then also half of a part,
  /// whose operands are so far from those of the first.
  template <int kParts, bool kThird = false, int kColumns = c.columns()>
  __device__ void add_scaled(float (&sum)[c.subs()][c.block_n / 2], int border, Reader& at, BlockScales<c>& scale,
                             u32 third_a = 0, u32 third_b = 0) const {
    const u32 blocks = this->blocks;
    scale.wait();
    scale.template read<kThird>();
    at.wait();
#pragma unroll (c.block_n == 192 ? 2 : 1)  // the copies of what a block hands on go; others have not the registers
    for (u32 block = 1; block < blocks; ++block) {
      step<kParts, kThird, kColumns, false>(sum, border, at, scale, third_a, third_b);
    }
    step<kParts, kThird, kColumns, true>(sum, border, at, scale, third_a, third_b);
  }
  template <int kColumns>
  static __device__ auto& part_of(float (&sum)[c.subs()][c.block_n / 2], int part) {
    return reinterpret_cast<float (&)[kColumns / 2]>(c.subs() > 1 ? sum[part][0] : sum[0][part * (c.columns() / 2)]);
  }
  /// One block; the last apart, so that the loop does not ask for it in the chain that its products have to hide.
  template <int kParts, bool kThird, int kColumns, bool kLast>
  __device__ void step(float (&sum)[c.subs()][c.block_n / 2], int border, Reader& at, BlockScales<c>& scale, u32 third_a,
                       u32 third_b) const {
    Reader next = at;
    next.next();
    Promotion<c> promotions[kParts + kThird];
#pragma unroll
    for (int s = 0; s < kParts; ++s) {
      float block_sum[kColumns / 2];
      ptx::wgmma_fence();
      multiply(block_sum, at, s, 0);
      ptx::wgmma_commit_group();
      if (s == 0) {
#pragma unroll
        for (int t = 0; t < kParts + kThird; ++t) {
          constexpr bool kRows = c.subs() > 1;  // a part has its own rows, or its own row of weight scales
          promotions[t] = Promotion<c>(scale.token[kRows ? t : 0], scale.weights[kRows ? 0 : t], scale.weights[1]);
        }
        if (kLast || ++scale.part == c.scale_blocks) {
          scale.next_stage();
          if (!kLast) scale.wait();
        }
        if (!kLast) scale.template read<kThird>();
      }
      const bool last = s == kParts - 1 && !kThird;
      if (last && !kLast) next.wait();
      ptx::wgmma_wait_group<0>();
      if (last) ring.release(at.stage);  // before the promotion: the loader needs the time
      promotions[s].add(part_of<kColumns>(sum, s), block_sum, border);
    }
    if constexpr (kThird) {
      float block_sum[c.block_n / 4];
      const u32 stage = at.stage * (c.stage_bytes() / 16);
      ptx::wgmma_fence();
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        ptx::Wgmma<true, c.block_n / 2>::multiply(block_sum, ptx::wgmma_descriptor(at.a + stage + third_a + 2 * k),
                                                  ptx::wgmma_descriptor(at.b + stage + third_b + 2 * k), k > 0);
      }
      ptx::wgmma_commit_group();
      if (!kLast) next.wait();
      ptx::wgmma_wait_group<0>();
      ring.release(at.stage);
      promotions[kParts].add_half(sum[kParts], block_sum);
    }
    at = next;
  }

  /// FP8 with registers to spare: the next block multiplies while this one is promoted. `step` promotes one block's
  /// products and begins the next one's, `last` promotes the last.
  template <class Step, class Last>
  __device__ __forceinline__ void in_pairs(Reader& at, BlockScales<c>& scale, const Step& step, const Last& last) const {
    const u32 blocks = this->blocks;
    float even[c.block_n / 2];
    float odd[c.block_n / 2];
    scale.wait();
    at.wait();
    ptx::wgmma_fence();
    multiply(even, at, 0, 0);
    ptx::wgmma_commit_group();
    // Straight pairs: the compiler must see which products are under way at every point.
    for (u32 pair = 0; pair < (blocks - 1) / 2; ++pair) {
      step(even, odd);
      step(odd, even);
    }
    if (blocks % 2 == 0) {
      step(even, odd);
      last(odd);
    } else {
      last(even);
    }
  }

  /// One tile of 64 tokens a warpgroup.
  __device__ void add_ahead(float (&sum)[c.block_n / 2], int border, Reader& at, BlockScales<c>& scale) const {
    in_pairs(
        at, scale,
        [&](Products<c>& current, Products<c>& following) { step_ahead(sum, current, following, border, at, scale); },
        [&](Products<c>& current) { last_step(sum, current, border, at, scale); });
  }
  __device__ void step_ahead(float (&sum)[c.block_n / 2], float (&current)[c.block_n / 2],
                             float (&following)[c.block_n / 2], int border, Reader& at, BlockScales<c>& scale) const {
    scale.read();
    const Promotion<c> promotion(scale.token[0], scale.weights[0], scale.weights[1]);
    const u32 stage = at.stage;
    at.next();
    at.wait();
    ptx::wgmma_fence();
    multiply(following, at, 0, 0);
    ptx::wgmma_commit_group();
    if (++scale.part == c.scale_blocks) {
      scale.next_stage();
      scale.wait();
    }
    ptx::wgmma_wait_group<1>();
    ring.release(stage);
    promotion.add(sum, current, border);
  }
  __device__ void last_step(float (&sum)[c.block_n / 2], float (&current)[c.block_n / 2], int border, Reader& at,
                            BlockScales<c>& scale) const {
    scale.read();
    const Promotion<c> promotion(scale.token[0], scale.weights[0], scale.weights[1]);
    scale.next_stage();
    ptx::wgmma_wait_group<0>();
    ring.release(at.stage);
    at.next();
    promotion.add(sum, current, border);
  }

  /// FP8 with scales for every column: the other warpgroup multiplies while this one promotes.
  __device__ void add_scaled_by_column(float (&sum)[c.block_n / 2], Reader& at, BlockScales<c>& scale) const {
    const u32 blocks = this->blocks;
    for (u32 block = 0; block < blocks; ++block) {
      if (scale.part == 0) scale.wait();
      at.wait();
      float block_sum[c.block_n / 2];
      ptx::wgmma_fence();
      multiply(block_sum, at, 0, 0);
      ptx::wgmma_commit_group();
      scale.read();
      ptx::wgmma_wait_group<0>();
      ring.release(at.stage);
      at.next();
      add_by_column<c>(sum, block_sum, scale.token[0], scale.weight + scale.place());
      if (++scale.part == c.scale_blocks || block + 1 == blocks) scale.next_stage();
    }
  }

  /// A swapped tile: a block's stage is given back before the next block is awaited, for weights come from memory.
  __device__ void add_swapped(float (&sum)[c.block_n / 2], Reader& at, BlockScales<c>& scale) const {
    in_pairs(
        at, scale,
        [&](Products<c>& current, Products<c>& following) { step_swapped<true>(sum, current, following, at, scale); },
        [&](Products<c>& current) { step_swapped<false>(sum, current, current, at, scale); });
  }
  template <bool kMore>
  __device__ void step_swapped(float (&sum)[c.block_n / 2], Products<c>& current, Products<c>& following, Reader& at,
                               BlockScales<c>& scale) const {
    scale.read();
    const ColumnPromotion<c> promotion(scale);
    if (++scale.part == c.scale_blocks || !kMore) {
      scale.next_stage();
      if (kMore) scale.wait();
    }
    ptx::wgmma_wait_group<0>();
    ring.release(at.stage);
    at.next();
#pragma unroll
    for (float& value : current) ptx::keep(value);
    if constexpr (kMore) {
      at.wait();
      ptx::wgmma_fence();
      multiply(following, at, 0, 0);
      ptx::wgmma_commit_group();
    }
    promotion.add(sum, current);
  }

  __device__ void add_plain(float (&sum)[c.subs()][c.block_n / 2], Reader& at) const {
    u32 before = 0;
    for (int block = 0; block < blocks; ++block) {
      at.wait();
      ptx::wgmma_fence();
#pragma unroll
      for (int s = 0; s < c.subs(); ++s) multiply(sum[s], at, s, 1);
      ptx::wgmma_commit_group();
      // The products of the block before have been read; those of this one may still run.
      ptx::wgmma_wait_group<1>();
      if (block > 0) ring.release(before);
      before = at.stage;
      at.next();
    }
    ptx::wgmma_wait_group<0>();
    ring.release(before);
    for (auto& sub : sum) {
      for (float& value : sub) ptx::keep(value);
    }
  }
};

}  // namespace fathom
