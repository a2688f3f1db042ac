// What the host and the Hopper attention kernels agree on. Compiled by both.
#pragma once
#include "layout/sparse_mla.cuh"

namespace fathom {

struct Sm90MlaKernel {
  SparseMlaKernel mla;
  int aligned_q, aligned_out;  // every head begins at 16 bytes
  int blocks;                  // of a cluster, which have a token's entries
  int span;                    // entries of each: of one part, or of several where the form folds
};

/// lora 512 and rope 64. A block has one token and 8, 16, 32 or 64 heads and takes 64 entries at a time.
inline constexpr int kSm90MlaEntries = 64;
inline constexpr int kSm90MlaBlocks = 9;  // of 64 columns: 128 bytes of bf16
inline constexpr int kSm90MlaTile = kSm90MlaBlocks * 64 * 128;
inline constexpr int kSm90MlaBuffers = 2;
inline constexpr int kSm90MlaTopK = 2048;  // at most: the list lies in shared memory
inline constexpr int kSm90MlaThreads = 512;
inline constexpr int kSm90MlaProducers = 256;

/// Up to 16 heads multiply entries of a quantised cache as they are: codes. Four warps more fetch them.
inline constexpr int kSm90MlaCodesThreads = kSm90MlaThreads + 128;
inline constexpr int kSm90MlaCodesBuffers = 4;
inline constexpr int kSm90MlaCodesEntry = 656;
inline constexpr int kSm90MlaCodesTile = kSm90MlaEntries * kSm90MlaCodesEntry;
/// Scores of a team's tile: of 16 heads the parts from every 128 columns and from the rotated ones.
inline constexpr int kSm90MlaCodesScores = 16 * 5 * 4 * kSm90MlaEntries;
inline constexpr int kSm90MlaCodesRotated = 16 * 128;  // the queries' rotated columns

/// Heads of a block.
inline constexpr int sm90_mla_heads(long long heads, bool codes) {
  return heads > 32 ? 64 : heads > 16 ? 32 : heads > 8 || codes ? 16 : 8;
}
/// Entries of a part in the decode class: clusters of up to six blocks, of which 16 find room at a time on an H200, or
/// of eight, of which 15 do, for 64 heads a block, whose tiles take longer.
inline constexpr int sm90_mla_part(int heads) { return heads == 64 ? 256 : 384; }
// What is copied before the list is made belongs to the first block of a cluster, whatever its part.
static_assert(kSm90MlaCodesBuffers * kSm90MlaEntries <= sm90_mla_part(16));
/// Where the device keeps the sums of parts that a block has behind it: more than a Hopper device has multiprocessors,
/// of which each has room for one block.
inline constexpr int kSm90MlaShelves = 144;
/// Partial results of a block: those of the warpgroups that go through entries of their own.
inline constexpr int sm90_mla_parts(int heads) { return heads == 64 ? 1 : 2; }
/// Floats from head to head of a partial result: 16 bytes more than a row, so that heads begin in different banks.
inline constexpr int kSm90MlaRow = 512 + 4;
static_assert(4 * kSm90MlaRow * 64 <= kSm90MlaBuffers * kSm90MlaTile && 4 * kSm90MlaRow * 32 <= kSm90MlaTile);

/// Queries, entries (later partial results), the list (later weights of the parts), what warps tell each other, maxima
/// and totals of the parts, barriers.
inline constexpr int kSm90MlaExchange = 2 * 4 * 32;
inline constexpr int kSm90MlaStatistics = 2 * 64;
/// With codes: scores (at first queries), entries (later partial results) and rotated columns of queries.
inline constexpr int sm90_mla_tiles_at(int heads, bool codes) {
  return codes ? 2 * kSm90MlaCodesScores : kSm90MlaBlocks * heads * 128;
}
inline constexpr int sm90_mla_list_at(int heads, bool codes) {
  return sm90_mla_tiles_at(heads, codes) +
         (codes ? kSm90MlaCodesBuffers * kSm90MlaCodesTile + kSm90MlaCodesRotated : kSm90MlaBuffers * kSm90MlaTile);
}
inline constexpr int sm90_mla_shared(int heads, bool codes) {
  return 1024 + sm90_mla_list_at(heads, codes) + 4 * kSm90MlaTopK + 4 * (kSm90MlaExchange + kSm90MlaStatistics) + 256;
}
static_assert(sm90_mla_shared(64, false) <= 227 * 1024 && sm90_mla_shared(16, true) <= 227 * 1024);
static_assert(kSm90MlaTile + 4 * kSm90MlaRow * 16 <= kSm90MlaCodesBuffers * kSm90MlaCodesTile);

}  // namespace fathom
