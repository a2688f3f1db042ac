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

/// What the threads of a block tell one another: before the rest of the dynamic shared memory where blocks of a cluster
/// share a row.
struct alignas(16) TopKScratch {
  int tally[4];  // the first: candidates found in this block, also those for which there was no room
  int sums[32];
  unsigned ones, zeros;
  int digit, above_digit, in_digit;
  int last_equal;  // the last position that is chosen of those with the k-th largest score
};

/// What they tell one another where rows are few.
struct alignas(16) TopKFewScratch : TopKScratch {
  int listed;    // candidates of this block, also those for which there was no room
  unsigned top;  // the largest key of the sample
  int sure;      // candidates of this block that are chosen without a closer look
  int few;       // and those that need one
  int before;    // chosen in the blocks before this one
  unsigned long long close[32];
  unsigned long long landed[32];  // mbarriers: a warp's chunk of scores is there
};

/// Dynamic shared memory of a kernel for rows of up to n scores.
inline constexpr long long top_k_shared_bytes(long long n) {
  const long long bits = n < kTopKLongestRow ? n : kTopKLongestRow;
  return 8 * kTopKCandidates + 4 * kTopKBins + 4 * ((bits + 31) / 32 + 32);
}

/// The shared memory of sm90_top_k_few: `slots` chunks of 128 * `fours` scores under way in a warp, a list of `list` candidates,
/// and a bit for each of `bits` scores.
inline constexpr long long sm90_top_k_few_shared_bytes(int threads, int slots, int fours, int list, int blocks,
                                                   long long bits) {
  return static_cast<long long>(sizeof(TopKFewScratch)) + threads / 32 * slots * fours * 512ll + 8ll * list +
         (blocks > 1 ? 2 : 1) * 4ll * kTopKBins + 4 * ((bits + 31) / 32 + 32);
}

}  // namespace fathom
