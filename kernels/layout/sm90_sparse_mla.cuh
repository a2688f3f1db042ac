// What the host and the Hopper attention kernel agree on. Compiled by both.
#pragma once
#include "layout/sparse_mla.cuh"

namespace fathom {

struct Sm90MlaKernel {
  SparseMlaKernel mla;
  int aligned_q, aligned_out;  // every head begins at 16 bytes
};

/// lora 512 and rope 64; a block has one token and 64 heads and takes 64 entries at a time.
inline constexpr int kSm90MlaHeads = 64;
inline constexpr int kSm90MlaEntries = 64;
inline constexpr int kSm90MlaBlocks = 9;  // of 64 columns: 128 bytes of bf16
inline constexpr int kSm90MlaTile = kSm90MlaBlocks * 64 * 128;
inline constexpr int kSm90MlaBuffers = 2;
inline constexpr int kSm90MlaTopK = 2048;  // at most: the list lies in shared memory
inline constexpr int kSm90MlaThreads = 384;

/// Queries, entries, the list, what the two halves tell each other, barriers.
inline constexpr int kSm90MlaShared =
    1024 + (1 + kSm90MlaBuffers) * kSm90MlaTile + 4 * kSm90MlaTopK + 4 * 2 * kSm90MlaHeads + 64;
static_assert(kSm90MlaShared <= 227 * 1024);

}  // namespace fathom
