// Latent attention of 64 heads of a token: the heads are the rows of the matrix instruction.
//
// Warpgroup 0 has the scores of a tile's 64 entries and the left half of the output's columns, warpgroup 1 the right
// half. While 1 works on a tile's right half, 0 is at the next tile's scores already.
//
// Named barriers: 1 and 2, weights and factors of the tile in buffer 0 or 1; 3, weights within warpgroup 0; 4, both are
// done with the tiles; 5, see mla_block.cuh.
#pragma once
#include "sm90/mla_block.cuh"

namespace fathom {

struct Sm90MlaWide : Sm90MlaBlock<64> {
  using Sm90MlaBlock<64>::Sm90MlaBlock;

  /// They take the place of the rotated columns, which only the scores need.
  __device__ u32 weights_of(int buffer) const { return entries() + buffer * kSm90MlaTile + 8 * kBlockBytes; }
  /// sum += weights of the tile times its columns from 256 * half on; then the warpgroup has done with the tile.
  __device__ __forceinline__ void add_tile(float (&sum)[2][64], int buffer, int half) const {
    const u32 a = ptx::wgmma_descriptor_low(weights_of(buffer));
    const u32 b = ptx::wgmma_transposed_low(entries() + buffer * kSm90MlaTile + half * 4 * kBlockBytes, kBlockBytes);
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) {
#pragma unroll
      for (int n = 0; n < 2; ++n) {  // 256 columns at once need more registers than 512 threads have at entry
        ptx::WgmmaTransposed128::multiply(sum[n], ptx::wgmma_descriptor(a + 2 * k),
                                          ptx::wgmma_descriptor(b + n * 2 * kBlockBytes / 16 + k * 2048 / 16));
      }
    }
    ptx::wgmma_commit_group();
    ptx::wgmma_wait_group<0>();
#pragma unroll
    for (int i = 0; i < 128; ++i) ptx::keep(sum[i / 64][i % 64]);
    __syncwarp();
    if (threadIdx.x % 32 == 0) ptx::mbarrier_arrive(empty(buffer));
  }
  __device__ __forceinline__ void finish(const float (&sum)[2][64], int row, int half) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    ptx::bar_sync(4, kConsumers);
    float* to = partial(0) + row * kSm90MlaRow + half * 256 + lane % 4 * 2;
#pragma unroll
    for (int j = 0; j < 32; ++j) {
      const float* four = sum[j / 16] + j % 16 * 4;
      *reinterpret_cast<float2*>(to + 8 * j) = {four[0], four[1]};
      *reinterpret_cast<float2*>(to + 8 * kSm90MlaRow + 8 * j) = {four[2], four[3]};
    }
  }

  __device__ __forceinline__ void consume_left() const {
    const int thread = static_cast<int>(threadIdx.x) % 128;
    const int lane = thread % 32;
    const int row = thread / 32 * 16 + lane / 4;  // and row + 8
    const float scale = args.softmax_scale * kLog2E;
    const float lowest = __uint_as_float(0xff800000u);
    float highest[2] = {lowest, lowest};
    float total[2] = {0, 0};  // of this thread's entries
    float sum[2][64] = {};
    for (int tile = 0; tile < tiles(); ++tile) {
      const int buffer = tile % kSm90MlaBuffers;
      ptx::mbarrier_wait(full(buffer), tile / kSm90MlaBuffers & 1);
      float score[32] = {};
      {
        const u32 a = ptx::wgmma_descriptor_low(queries);
        const u32 b = ptx::wgmma_descriptor_low(entries() + buffer * kSm90MlaTile);
        ptx::wgmma_fence();
#pragma unroll
        for (int k = 0; k < 4 * kSm90MlaBlocks; ++k) {
          const u32 step = k / 4 * (kBlockBytes / 16) + k % 4 * 2;  // of both: 64 rows
          ptx::Wgmma<false, 64>::multiply(score, ptx::wgmma_descriptor(a + step), ptx::wgmma_descriptor(b + step),
                                          k > 0);
        }
        ptx::wgmma_commit_group();
        ptx::wgmma_wait_group<0>();
#pragma unroll
        for (int i = 0; i < 32; ++i) ptx::keep(score[i]);
      }
      const int left = count - tile * kSm90MlaEntries;
      float most[2] = {highest[0], highest[1]};
#pragma unroll
      for (int i = 0; i < 32; ++i) {
        const int column = i / 4 * 8 + lane % 4 * 2 + i % 2;
        score[i] = column < left ? score[i] * scale : lowest;
        most[i / 2 % 2] = fmaxf(most[i / 2 % 2], score[i]);
      }
      float shrink[2];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        most[h] = fmaxf(most[h], __shfl_xor_sync(~0u, most[h], 1));
        most[h] = fmaxf(most[h], __shfl_xor_sync(~0u, most[h], 2));
        shrink[h] = ptx::exp2(highest[h] - most[h]);  // 0 at first
        highest[h] = most[h];
        total[h] *= shrink[h];
        if (lane % 4 == 0) exchange()[buffer * 64 + row + 8 * h] = shrink[h];
      }
#pragma unroll
      for (int i = 0; i < 32; i += 2) {
        const int h = i / 2 % 2;
        const float low = ptx::exp2(score[i] - highest[h]);
        const float high = ptx::exp2(score[i + 1] - highest[h]);
        total[h] += low + high;
        u8* to = tiles_at() + buffer * kSm90MlaTile + 8 * kBlockBytes + place(row + 8 * h, i / 4, kBlockBytes);
        *reinterpret_cast<u32*>(to + lane % 4 * 4) = ptx::cvt_bf16x2(low, high);
      }
#pragma unroll
      for (int i = 0; i < 128; ++i) sum[i / 64][i % 64] *= shrink[i / 2 % 2];
      ptx::fence_proxy_async();
      ptx::bar_arrive(1 + buffer, kConsumers);
      ptx::bar_sync(3, 128);
      add_tile(sum, buffer, 0);
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      total[h] += __shfl_xor_sync(~0u, total[h], 1);
      total[h] += __shfl_xor_sync(~0u, total[h], 2);
      if (lane % 4 == 0) set_statistics(0, row + 8 * h, highest[h], total[h]);
    }
    finish(sum, row, 0);
  }

  __device__ __forceinline__ void consume_right() const {
    const int thread = static_cast<int>(threadIdx.x) % 128;
    const int row = thread / 32 * 16 + thread % 32 / 4;
    float sum[2][64] = {};
    for (int tile = 0; tile < tiles(); ++tile) {
      const int buffer = tile % kSm90MlaBuffers;
      ptx::bar_sync(1 + buffer, kConsumers);
      ptx::mbarrier_wait(full(buffer), tile / kSm90MlaBuffers & 1);  // over: this warpgroup sees the entries as well
      const float shrink[2] = {exchange()[buffer * 64 + row], exchange()[buffer * 64 + row + 8]};
#pragma unroll
      for (int i = 0; i < 128; ++i) sum[i / 64][i % 64] *= shrink[i / 2 % 2];
      add_tile(sum, buffer, 1);
    }
    finish(sum, row, 1);
  }

  __device__ void run() {
    begin();
    const int group = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 128, 0);
    if (group == 0) {
      ptx::setmaxnreg_inc<192>();
      load_queries();
      consume_left();
      meet();
      join();
      meet();
    } else if (group == 1) {
      ptx::setmaxnreg_inc<160>();
      load_queries();
      consume_right();
      meet();
      join();
      meet();
    } else {
      ptx::setmaxnreg_dec<80>();
      produce();
      meet();
      meet();
    }
  }
};

}  // namespace fathom
