// What the host and the top-k kernel agree on. Compiled by both.
#pragma once
#include "layout/cache.cuh"

namespace fathom {

enum class TopKKind : int { plain, paged, ragged };

struct TopKKernel {
  const float* scores;
  long long scores_row;
  SimtIntegers lengths;
  SimtIntegers starts;    // no data: 0
  SimtIntegers requests;  // no data: row / rows_per_request
  SimtIntegers offsets;
  BlockTable block_table;
  int* out;
  long long out_row;
  long long rows, n, k;
  long long rows_per_request;
  TopKKind kind;
};

/// Scores among which the k largest are looked for in shared memory: a row as a whole, or what a sample of it
/// lets through.
inline constexpr int kTopKCandidates = 6144;
/// Of a longer row no more than this may lie in the bits that say which scores a sample lets through.
inline constexpr int kTopKLongestRow = 1 << 18;
inline constexpr int kTopKSample = 4096;
inline constexpr int kTopKBins = 2048;

/// What the threads of a block tell one another: the start of the dynamic shared memory.
struct alignas(16) TopKScratch {
  int sums[32];
  unsigned ones, zeros;
  int digit, above_digit, in_digit;
  int listed;                     // candidates of this block, also those for which there was no room
  int few;                        // those that need a closer look
  unsigned long long close[32];   // and themselves
  unsigned long long landed[32];  // mbarriers: a warp's chunk of scores is there
};
/// The same for a block of many rows.
struct alignas(16) TopKManyScratch : TopKScratch {
  struct {
    unsigned key, top;
  } sampled[32];  // of each warp: a score that enough of its sample reach, and the largest
};
/// And where rows are few.
struct alignas(16) TopKFewScratch : TopKScratch {
  unsigned top;  // the largest key of the sample
  int before;    // chosen in the blocks before this one
  int own_in_digit;
  // What the other blocks of the cluster say, and mbarriers: all of it is there.
  int listed_by[4];
  unsigned long long told[2];
};

/// All shared memory of a block of sm90_top_k_held, and its threads.
struct alignas(16) TopKHeldScratch {
  int bins[kTopKBins + 4];  // and one for what is not to be counted
  int chosen[kTopKCandidates / 2];
  int sums[32];
  int digit, above_digit, in_digit;
};
inline constexpr int kTopKHeldThreads = 512;

/// Dynamic shared memory of the general kernel for rows of up to n scores.
inline constexpr long long top_k_shared_bytes(long long n) {
  const long long bits = n < kTopKLongestRow ? n : kTopKLongestRow;
  return 8 * kTopKCandidates + 4 * kTopKBins + 4 * ((bits + 31) / 32 + 32);
}

/// Of both kernels below: a chunk is 128 times as many scores, so many float4 of each lane.
inline constexpr int kTopKFours = 8;
/// Of sm90_top_k: a chunk under way in every warp, a list of `list` candidates, and where it has those of each chunk of a row.
inline constexpr long long sm90_top_k_shared_bytes(int threads, int list, long long n) {
  const long long row = n < kTopKLongestRow ? n : kTopKLongestRow;
  return static_cast<long long>(sizeof(TopKManyScratch)) + threads / 32 * kTopKFours * 512ll + 8ll * list + 4ll * kTopKBins +
         4 * ((row + 128 * kTopKFours - 1) / (128 * kTopKFours) + 2);
}

/// Of sm90_top_k_few: threads of a block, chunks of a warp under way, candidates of a block.
inline constexpr int kTopKFewThreads = 512;
inline constexpr int kTopKFewSlots = 2;
inline constexpr int kTopKFewList = 6144;
/// Chunks and list as above, a bin for each thread, those of other blocks, and a bit for each score of a row of n which `blocks` share.
inline constexpr long long sm90_top_k_few_shared_bytes(int blocks, long long n) {
  const long long row = n < kTopKLongestRow ? n : kTopKLongestRow;
  return static_cast<long long>(sizeof(TopKFewScratch)) + kTopKFewThreads / 32 * kTopKFewSlots * kTopKFours * 512ll +
         8ll * kTopKFewList + (blocks > 1 ? 1 + 2 * blocks : 1) * 4ll * kTopKFewThreads + 4 * ((row / blocks + 32) / 32 + 32);
}

}  // namespace fathom
