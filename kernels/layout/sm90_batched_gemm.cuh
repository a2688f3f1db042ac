// What the host and the Hopper kernel for the product of every group of a batch agree on. Compiled by both.
#pragma once
#include "layout/simt_gemm.cuh"

namespace fathom {

struct Sm90BatchedGemmArgs {
  SimtBatchedGemmArgs product;
  int column_tiles;  // of a group
  int token_parts;   // a block has kSm90BatchedTiles tiles of tokens
};

inline constexpr int kSm90BatchedTokens = 64;    // of a tile
inline constexpr int kSm90BatchedColumns = 128;  // of a block: one block of scales
inline constexpr int kSm90BatchedThreads = 256;  // two warpgroups, which share out the columns
inline constexpr int kSm90BatchedTiles = 8;
inline constexpr int kSm90BatchedMostK = 512;  // weights of so many columns stay in shared memory
inline constexpr int kSm90BatchedBlock = kSm90BatchedTokens * 128 * 2;     // tokens by 128 of k, of two buffers
inline constexpr int kSm90BatchedRow = 2 * kSm90BatchedColumns + 16;  // of results on their way out: no bank conflicts
inline constexpr int kSm90BatchedWeights = kSm90BatchedColumns * 128 * 2;  // for every 128 of k

constexpr int sm90_batched_shared(long long k) {
  return 1024 + 2 * kSm90BatchedBlock + kSm90BatchedTokens * kSm90BatchedRow +
         static_cast<int>((k + 127) / 128) * kSm90BatchedWeights;
}

}  // namespace fathom
