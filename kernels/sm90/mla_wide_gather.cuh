// How the producers of a block of 64 heads fill its buffers with tiles of entries.
#pragma once
#include "sm90/mla_block.cuh"

namespace fathom {

struct Sm90MlaWideGather : Sm90MlaBlock<64> {
  using Sm90MlaBlock<64>::Sm90MlaBlock;

  /// What a producer has of a quantised entry: 16 of every 128 bytes. The right half of the row's threads has the
  /// neighbouring row's, so that eight threads store to eight different groups of banks.
  struct Piece {
    uint4 codes[4];
    uint4 rope;
    uint4 scales;
  };
  __device__ __forceinline__ void fetch(Piece& piece, int tile, int row, int part) const {
    const u8* entry = entry_at(tile, row);
    const u8* own = entry + 16 * part;
    piece.scales = ptx::ld_global_early(entry + 512);
#pragma unroll
    for (int group = 0; group < 4; ++group) {
      piece.codes[group] = ptx::ld_global_early(own + 128 * group);
    }
    piece.rope = ptx::ld_global_early(own + 528);
  }
  __device__ __forceinline__ void convert(const Piece& piece, u32 latent, u32 rope, bool there) const {
    const u32 scales[4] = {piece.scales.x, piece.scales.y, piece.scales.z, piece.scales.w};
#pragma unroll
    for (int group = 0; group < 4; ++group) {
      const uint4& c = piece.codes[group];
      const float scale = __uint_as_float(there ? scales[group] : 0);  // what is weighted with 0 has to be finite
      const uint4 low = dequantise(c.x, c.y, scale);
      const uint4 high = dequantise(c.z, c.w, scale);
      ptx::st_shared_4(latent + group * 2 * kBlockBytes, {low.x, low.y, low.z, low.w});
      ptx::st_shared_4((latent ^ 16) + group * 2 * kBlockBytes, {high.x, high.y, high.z, high.w});
    }
    ptx::st_shared_4(rope, {piece.rope.x, piece.rope.y, piece.rope.z, piece.rope.w});
  }
  __device__ __forceinline__ void produce_quantised(int gathered) const {
    constexpr int kStep = kProducers / 8;
    constexpr int kAhead = 2;  // tiles that come from memory into the L2 cache
    static_assert(kSm90MlaEntries == 2 * kStep);
    const int thread = static_cast<int>(threadIdx.x) % kProducers;
    const int part = thread % 8;
    const int row = thread / 8 ^ part / 4;  // and kStep rows further, which has the same swizzle
    const u32 latent = entries() + place(row, part / 4 * 8 + 2 * part % 8, kBlockBytes);
    const u32 rope = entries() + place(row, 64 + part, kBlockBytes);
    Piece piece[2];
    if (count > 0) fetch(piece[0], 0, row, part);
    for (int tile = 0; tile < tiles(); ++tile) {
      const int buffer = (gathered + tile) % kSm90MlaBuffers;
      const int left = count - tile * kSm90MlaEntries;
      const u32 at = buffer * kSm90MlaTile;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        // Loads are a piece ahead; the wait, which the second piece does not need, keeps the assembler from sinking
        // them.
        fetch(piece[1 - r], tile + r, row + (1 - r) * kStep, part);
        if (part == 0) ptx::prefetch_l2_bulk(entry_at(tile + kAhead, row + r * kStep), 656);
        await_empty(gathered + tile);
        convert(piece[r], latent + at + r * kStep * 128, rope + at + r * kStep * 128, row + r * kStep < left);
      }
      hand_over(buffer);
    }
  }
  __device__ __forceinline__ void produce_bf16(int gathered) const {
    const int thread = static_cast<int>(threadIdx.x) % kProducers;
    const int part = thread % 8;
    const int row = thread / 8;
    for (int tile = 0; tile < tiles(); ++tile) {
      const int buffer = (gathered + tile) % kSm90MlaBuffers;
      const int left = count - tile * kSm90MlaEntries;
      await_empty(gathered + tile);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const u32 to = entries() + buffer * kSm90MlaTile + place(row, part, kBlockBytes) + r * (kProducers / 8) * 128;
        const u8* entry = entry_at(tile, row + r * (kProducers / 8)) + 16 * part;
#pragma unroll
        for (int b = 0; b < kSm90MlaBlocks; ++b) {
          ptx::cp_async_16(to + b * kBlockBytes, entry + 128 * b, row + r * (kProducers / 8) < left);
        }
      }
      ptx::cp_async_wait_all();
      hand_over(buffer);
    }
  }
  __device__ __forceinline__ void await_empty(int gathered) const {
    if (gathered < kSm90MlaBuffers) return;
    ptx::mbarrier_wait(empty(gathered % kSm90MlaBuffers), (gathered / kSm90MlaBuffers - 1) & 1);
  }
  __device__ __forceinline__ void hand_over(int buffer) const {
    __syncwarp();
    if (threadIdx.x % 32 == 0) ptx::mbarrier_arrive(full(buffer));
  }
};

}  // namespace fathom
