// Latent attention of up to 32 heads of a token, of 17 or more over a quantised cache: entries, then columns, are the
// rows of the matrix instruction and the heads its columns, of which it may have 8, 16 or 32. No row is padding.
//
// Two warpgroups take every second tile each, with a maximum, a total and sums of their own: two parts of the result,
// which are joined as those of other blocks are.
#pragma once
#include "sm90/mla_block.cuh"

namespace fathom {

template <int kHeads>
struct Sm90MlaNarrow : Sm90MlaBlock<kHeads> {
  using Block = Sm90MlaBlock<kHeads>;
  using Block::Block;
  static constexpr int kColumns = kHeads / 8;  // pairs of heads of a thread: 8 j + lane % 4 * 2 and the next

  /// Warpgroup `group` of two: tiles group, group + 2, ..., which all come into buffer `group`. Named barrier 1 + group
  /// is between its warps.
  __device__ __forceinline__ void consume(int group) const {
    const int thread = static_cast<int>(threadIdx.x) % 128;
    const int warp = thread / 32;
    const int lane = thread % 32;
    const int row = warp * 16 + lane / 4;  // of entries or columns, and row + 8
    const float scale = this->args.softmax_scale * Block::kLog2E;
    const float lowest = __uint_as_float(0xff800000u);
    const u32 keys = this->entries() + group * kSm90MlaTile;
    const u32 weights = keys + 8 * Block::kBlockBytes;  // in the place of the rotated columns
    float* maxima = this->exchange() + group * 4 * kHeads;  // [warps][kHeads]
    int place_of[2][2];  // of the weight of entry row + 8 h for head lane % 4 * 2 + c
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      place_of[i / 2][i % 2] = group * kSm90MlaTile + 8 * Block::kBlockBytes + lane / 4 * 2 +
                               Block::place(lane % 4 * 2 + i % 2, warp * 2 + i / 2, Block::kBlockBytes);
    }
    float highest[2 * kColumns];
    float total[2 * kColumns];  // of this thread's entries
    float sum[8][4 * kColumns];
#pragma unroll
    for (int i = 0; i < 2 * kColumns; ++i) highest[i] = lowest, total[i] = 0;
#pragma unroll
    for (int m = 0; m < 8; ++m) {
#pragma unroll
      for (int i = 0; i < 4 * kColumns; ++i) sum[m][i] = 0;
    }
    for (int tile = group; tile < this->tiles(); tile += 2) {
      ptx::mbarrier_wait(this->full(group), tile / 2 & 1);
      float score[4 * kColumns] = {};
      {
        const u32 a = ptx::wgmma_descriptor_low(keys);
        const u32 b = ptx::wgmma_descriptor_low(this->queries);
        ptx::wgmma_fence();
#pragma unroll 1
        for (int block = 0; block < kSm90MlaBlocks; ++block) {
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            ptx::Wgmma<false, kHeads>::multiply(
                score, ptx::wgmma_descriptor(a + block * (Block::kBlockBytes / 16) + k * 2),
                ptx::wgmma_descriptor(b + block * (Block::kQueryBlockBytes / 16) + k * 2), 1);
          }
        }
        ptx::wgmma_commit_group();
        ptx::wgmma_wait_group<0>();
#pragma unroll
        for (int i = 0; i < 4 * kColumns; ++i) ptx::keep(score[i]);
      }
      const int left = this->count - tile * kSm90MlaEntries;
#pragma unroll
      for (int i = 0; i < 2 * kColumns; ++i) {  // head 8 j + lane % 4 * 2 + c is i = 2 j + c
        const int at = i / 2 * 4 + i % 2;
        score[at] = row < left ? score[at] * scale : lowest;
        score[at + 2] = row + 8 < left ? score[at + 2] * scale : lowest;
        float most = fmaxf(score[at], score[at + 2]);
#pragma unroll
        for (int lanes = 4; lanes < 32; lanes *= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, lanes));
        if (lane < 4) maxima[warp * kHeads + i / 2 * 8 + lane * 2 + i % 2] = most;
      }
      ptx::bar_sync(1 + group, 128);
#pragma unroll
      for (int i = 0; i < 2 * kColumns; ++i) {
        const int head = i / 2 * 8 + lane % 4 * 2 + i % 2;
        const float before = highest[i];
#pragma unroll
        for (int w = 0; w < 4; ++w) highest[i] = fmaxf(highest[i], maxima[w * kHeads + head]);
        const float shrink = ptx::exp2(before - highest[i]);  // 0 at first
        const int at = i / 2 * 4 + i % 2;
        score[at] = ptx::exp2(score[at] - highest[i]);
        score[at + 2] = ptx::exp2(score[at + 2] - highest[i]);
        total[i] = total[i] * shrink + (score[at] + score[at + 2]);
#pragma unroll
        for (int m = 0; m < 8; ++m) {
          sum[m][at] *= shrink;
          sum[m][at + 2] *= shrink;
        }
      }
#pragma unroll
      for (int i = 0; i < 4 * kColumns; i += 2) {  // heads 8 j + lane % 4 * 2 and the next of entry row + 8 h
        const u32 pair = ptx::cvt_bf16x2(score[i], score[i + 1]);
        u8* to = this->tiles_at() + i / 4 * 1024;
        *reinterpret_cast<u16*>(to + place_of[i / 2 % 2][0]) = static_cast<u16>(pair);
        *reinterpret_cast<u16*>(to + place_of[i / 2 % 2][1]) = static_cast<u16>(pair >> 16);
      }
      ptx::fence_proxy_async();
      ptx::bar_sync(1 + group, 128);  // the maxima have been read, too
      ptx::wgmma_fence();
#pragma unroll
      for (int m = 0; m < 8; ++m) {
        const u32 a = ptx::wgmma_transposed_low(keys + m * Block::kBlockBytes, Block::kBlockBytes);
        const u32 b = ptx::wgmma_descriptor_low(weights);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          ptx::WgmmaTransposedA<kHeads>::multiply(sum[m], ptx::wgmma_descriptor(a + k * 2048 / 16),
                                                  ptx::wgmma_descriptor(b + 2 * k));
        }
      }
      ptx::wgmma_commit_group();
      ptx::wgmma_wait_group<0>();
#pragma unroll
      for (int m = 0; m < 8; ++m) {
#pragma unroll
        for (int i = 0; i < 4 * kColumns; ++i) ptx::keep(sum[m][i]);
      }
      __syncwarp();
      if (lane == 0) ptx::mbarrier_arrive(this->empty(group));
    }
    ptx::bar_sync(1 + group, 128);  // every warp is done with the tiles
    float* to = this->partial(group) + row;
#pragma unroll
    for (int m = 0; m < 8; ++m) {
#pragma unroll
      for (int i = 0; i < 4 * kColumns; ++i) {
        to[(i / 4 * 8 + lane % 4 * 2 + i % 2) * kSm90MlaRow + 64 * m + i / 2 % 2 * 8] = sum[m][i];
      }
    }
#pragma unroll
    for (int i = 0; i < 2 * kColumns; ++i) {
#pragma unroll
      for (int lanes = 4; lanes < 32; lanes *= 2) total[i] += __shfl_xor_sync(~0u, total[i], lanes);
      if (lane < 4) maxima[warp * kHeads + i / 2 * 8 + lane * 2 + i % 2] = total[i];
    }
    ptx::bar_sync(1 + group, 128);
#pragma unroll
    for (int i = 0; i < 2 * kColumns; ++i) {
      const int head = i / 2 * 8 + lane % 4 * 2 + i % 2;
      const float half = maxima[head] + maxima[kHeads + head];
      const float all = half + (maxima[2 * kHeads + head] + maxima[3 * kHeads + head]);
      if (warp == 0 && lane < 4) this->set_statistics(group, head, highest[i], all);
    }
  }

  __device__ __forceinline__ void wait_for_room(u32 tile) const {
    const u32 buffer = tile % kSm90MlaBuffers;
    if (tile >= kSm90MlaBuffers) ptx::mbarrier_wait(this->empty(buffer), (tile / kSm90MlaBuffers - 1) & 1);
  }
  __device__ __forceinline__ void tell(u32 tile) const {
    ptx::fence_proxy_async();
    __syncwarp();
    if (threadIdx.x % 32 == 0) ptx::mbarrier_arrive(this->full(tile % kSm90MlaBuffers));
  }

  /// The tiles from a cache of bf16. A thread has 16 of every 128 bytes of two entries, its neighbours the others.
  __device__ __forceinline__ void copy_tiles() const {
    const int thread = static_cast<int>(threadIdx.x) % Block::kProducers;
    const int part = thread % 8;
    for (int tile = 0; tile < this->tiles(); ++tile) {
      wait_for_room(tile);
      const u32 to = this->entries() + tile % kSm90MlaBuffers * kSm90MlaTile;
#pragma unroll 1
      for (int row = thread / 8; row < kSm90MlaEntries; row += Block::kProducers / 8) {
        const bool there = tile * kSm90MlaEntries + row < this->count;
        const u8* entry = this->entry_at(tile, row) + 16 * part;
#pragma unroll 3
        for (int b = 0; b < kSm90MlaBlocks; ++b) {
          ptx::cp_async_16(to + Block::place(row, 8 * b + part, Block::kBlockBytes), entry + 128 * b, there);
        }
      }
      ptx::cp_async_wait_all();
      tell(tile);
    }
  }

  /// What a thread has of a quantised entry: 16 of every 128 codes, 16 bytes of the rotated columns, the scales.
  struct Piece {
    uint4 codes[4];
    uint4 rotated;
    uint4 scales;
  };
  /// The tiles from a quantised cache, half of one at a time. The next half is on its way into registers while one is
  /// converted, and later ones into the L2 cache. Beyond the end they are the first entry again, without weight.
  ///
  /// The right half of a row's eight threads has the neighbouring row: together they store to all banks.
  __device__ __forceinline__ void convert_tiles() const {
    constexpr u32 kRows = Block::kProducers / 8;
    static_assert(2 * kRows == kSm90MlaEntries);
    constexpr u32 kAhead = 4;  // halves that come into the L2 cache
    const u32 thread = threadIdx.x % Block::kProducers;
    const u32 part = thread % 8;
    const u32 row = thread / 8 ^ part / 4;  // of every half
    const u32 to = part / 4 * Block::kBlockBytes + row * 128 + (part % 4 * 2 ^ row % 8) * 16;
    const u32 rotated_to = 8 * Block::kBlockBytes + row * 128 + (part ^ row % 8) * 16;
    if (this->count == 0) return;
    const auto entry_of = [&](u32 half) { return this->entry_at(0, static_cast<int>(half * kRows + row)); };
    const auto prefetch = [&](u32 half) {  // 656 bytes are in six lines of 128
      if (part < 6 && static_cast<int>(half * kRows + row) < this->count) ptx::prefetch_l2(entry_of(half) + 128 * part);
    };
    Piece piece;
    const auto load = [&](const u8* entry, u32 group) {
      piece.codes[group] = ptx::ld_global_early(entry + part * 16 + group * 128);
    };
    const auto load_rest = [&](const u8* entry) {
      piece.scales = ptx::ld_global_early(entry + 512);
      piece.rotated = ptx::ld_global_early(entry + part * 16 + 528);
    };
#pragma unroll
    for (u32 group = 0; group < 4; ++group) load(entry_of(0), group);
    load_rest(entry_of(0));
#pragma unroll 1
    for (u32 half = 1; half < kAhead; ++half) prefetch(half);
#pragma unroll 1
    for (u32 half = 0; half < 2 * static_cast<u32>(this->tiles()); ++half) {
      if (half % 2 == 0) wait_for_room(half / 2);
      const u8* next = entry_of(half + 1);
      prefetch(half + kAhead);
      u8* tile = this->tiles_at() + half / 2 % kSm90MlaBuffers * kSm90MlaTile + half % 2 * (kRows * 128);
      const float scales[4] = {__uint_as_float(piece.scales.x), __uint_as_float(piece.scales.y),
                               __uint_as_float(piece.scales.z), __uint_as_float(piece.scales.w)};
      *reinterpret_cast<uint4*>(tile + rotated_to) = piece.rotated;
      load_rest(next);
#pragma unroll
      for (u32 group = 0; group < 4; ++group) {
        const uint4 c = piece.codes[group];
        load(next, group);
        u8* block = tile + group * 2 * Block::kBlockBytes;
        *reinterpret_cast<uint4*>(block + to) = Block::dequantise(c.x, c.y, scales[group]);
        *reinterpret_cast<uint4*>(block + (to ^ 16)) = Block::dequantise(c.z, c.w, scales[group]);
      }
      if (half % 2 == 1) tell(half / 2);
    }
  }

  __device__ void run() {
    constexpr int kConsumerRegisters = kHeads == 32 ? 184 : 144;
    if (threadIdx.x < Block::kConsumers) this->template fetch_queries<Block::kConsumers>(static_cast<int>(threadIdx.x));
    this->begin();
    const int group = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 128, 0);
    if (group < 2) {
      ptx::setmaxnreg_inc<kConsumerRegisters>();
      this->await_queries();
      consume(group);
    } else {
      ptx::setmaxnreg_dec<256 - kConsumerRegisters>();
      if (kHeads <= 16 || this->args.element == 2) {
        copy_tiles();
      } else {
        convert_tiles();
      }
    }
    this->join();
  }
};

}  // namespace fathom
