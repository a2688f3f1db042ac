// The k largest scores of short rows on Hopper, a block a row: its scores stay in registers from the load to the end.
//
// Scores are counted by digits of their keys: the first one of all of them as they arrive, then further ones of those that share
// the digits before with the k-th largest. Each thread then knows which of its scores are chosen, and sums over the threads before
// it say where their positions go. Nothing depends on how scores lie, and no order on timing.
#pragma once
#include "ptx/memory.cuh"
#include "sm90/top_k_rows.cuh"

namespace fathom {

/// kUnits: of four scores, that a thread holds.
template <int kPage, int kUnits>
struct Sm90TopKHeld {
  static constexpr int kThreads = kTopKHeldThreads;
  static constexpr int kWarps = kThreads / 32;
  static constexpr int kScores = 4 * kUnits;
  static constexpr int kDigit = 11;  // bits
  static constexpr int kWords = (kScores + 31) / 32;
  static constexpr u32 kNan = 0x7fffffff;
  using Row = simt::TopK<kThreads, kPage>;
  using Writer = typename Row::Writer;
  using Keys = unsigned[kScores];  // in the order of scores; 1 for NaN and beside the end within four, 0 beyond
  using Marks = unsigned[kWords];  // a bit for each
  using Places = int[kUnits];      // of the first marked score of each unit among those of the block
  static_assert(kTopKBins == 1 << kDigit && kTopKBins == 4 * kThreads && kUnits % 4 == 0);

  const TopKKernel& args;

  static __device__ TopKHeldScratch& scratch() {
    extern __shared__ int4 top_k_memory[];
    return *reinterpret_cast<TopKHeldScratch*>(top_k_memory);
  }
  static __device__ int thread() { return static_cast<int>(threadIdx.x); }
  static __device__ int warp() { return static_cast<int>(threadIdx.x / 32); }

  /// A warp has units next to one another, a lane every 32nd of them.
  struct Part {
    const float* scores;
    int length;
    int rounds;  // units of a lane
    int first;   // of this lane
    int whole;   // units of the row before this one are loaded at once
    __device__ int position(int unit) const { return 4 * (first + 32 * unit); }
  };
  static __device__ Part part_of(const float* scores, int length) {
    Part part{scores, length, (length + 4 * kThreads - 1) / (4 * kThreads), 0, 0};
    part.first = warp() * 32 * part.rounds + simt::lane_id();
    part.whole = reinterpret_cast<unsigned long long>(scores) % 16 == 0 ? length / 4 : 0;
    return part;
  }

  /// All lanes count, those that have nothing to count in a bin that nobody reads: the assembler would branch for each.
  static __device__ void count(unsigned bin) { atomicAdd(&scratch().bins[bin], 1); }
  static __device__ unsigned key_of(float score, unsigned nan) {
    const unsigned key = simt::top_k_key(score);
    return score == score ? key : nan;
  }
  /// Loads a row's scores, and counts them by their first digit.
  static __device__ void load(const Part& part, Keys& keys) {
    float scores[kScores];
    bool ragged = false;
#pragma unroll
    for (int j = 0; j < kUnits; ++j) {
      const int unit = part.first + 32 * j;
      const bool whole = j < part.rounds && unit < part.whole;
      ragged |= j < part.rounds && !whole && 4 * unit < part.length;
      const uint4 v = ptx::ld_global_early(part.scores + 4 * unit, whole, kNan);
      scores[4 * j] = __uint_as_float(v.x);
      scores[4 * j + 1] = __uint_as_float(v.y);
      scores[4 * j + 2] = __uint_as_float(v.z);
      scores[4 * j + 3] = __uint_as_float(v.w);
    }
    if (ragged) {  // the row's end, or all of one that does not lie at 16 bytes
#pragma unroll
      for (int i = 0; i < kScores; ++i) {
        const int unit = part.first + i / 4 * 32;
        if (i / 4 < part.rounds && unit >= part.whole && 4 * unit + i % 4 < part.length) scores[i] = part.scores[4 * unit + i % 4];
      }
    }
#pragma unroll
    for (int j = 0; j < kUnits; ++j) {
      if (j >= part.rounds) {
#pragma unroll
        for (int i = 0; i < 4; ++i) keys[4 * j + i] = 0;
        continue;
      }
      // What is behind the row's end has the least digit, so that it does not matter whether it is counted.
      const unsigned nan = part.position(j) < part.length ? 1 : 0;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        keys[4 * j + i] = key_of(scores[4 * j + i], nan);
        count(keys[4 * j + i] >> (32 - kDigit));
      }
    }
  }

  /// Keys from `base` on that share its digits; the k-th largest is the wanted-th of the `found` ones.
  struct Search {
    unsigned base;
    int wanted, found;
  };
  /// Adds the next digit, and clears the bins.
  static __device__ void narrow(Search& search, int shift) {
    __syncthreads();
    const int at = kThreads - 1 - thread();  // from the top: the first threads have the largest keys
    int4& bins = reinterpret_cast<int4*>(scratch().bins)[at];
    const int4 mine = bins;
    bins = int4{0, 0, 0, 0};
    const int sum = mine.x + mine.y + mine.z + mine.w;
    int total;
    int above = sm90::sum_before<kThreads>(sum, total, scratch().sums);
    if (above < search.wanted && search.wanted <= above + sum) {
      const int each[] = {mine.w, mine.z, mine.y, mine.x};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (above < search.wanted && search.wanted <= above + each[i]) {
          scratch().digit = 4 * at + 3 - i;
          scratch().above_digit = above;
          scratch().in_digit = each[i];
        }
        above += each[i];
      }
    }
    __syncthreads();
    search.base += static_cast<unsigned>(scratch().digit) << shift;
    search.wanted -= scratch().above_digit;
    search.found = scratch().in_digit;
  }

  /// Where marked scores go, and how many there are in the block.
  static __device__ int places(const Marks& marks, Places& first) {
    const int lane = simt::lane_id();
    int total = 0;
#pragma unroll
    for (int w = 0; w < kUnits; w += 4) {  // four counts of up to 128 in a word
      unsigned counts = 0;
#pragma unroll
      for (int j = 0; j < 4; ++j) counts |= static_cast<unsigned>(__popc(marks[w / 8] >> (4 * (w + j)) % 32 & 15)) << 8 * j;
      const unsigned sum = simt::warp_inclusive_sum(counts, lane);
      const unsigned whole = __shfl_sync(~0u, sum, 31);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        first[w + j] = total + static_cast<int>((sum - counts) >> 8 * j & 255);
        total += static_cast<int>(whole >> 8 * j & 255);
      }
    }
    if (lane == 31) scratch().sums[warp()] = total;
    __syncthreads();
    const int mine = lane < kWarps ? scratch().sums[lane] : 0;
    const int before = __reduce_add_sync(~0u, lane < warp() ? mine : 0);
#pragma unroll
    for (int& place : first) place += before;
    return __reduce_add_sync(~0u, mine);
  }
  /// Marks the first ones of those that equal the k-th largest.
  static __device__ void mark_ties(const Keys& keys, const Search& search, Marks& marks) {
    Marks equal{};
    Places place;
#pragma unroll
    for (int i = 0; i < kScores; ++i) equal[i / 32] |= static_cast<unsigned>(keys[i] == search.base) << i % 32;
    places(equal, place);
#pragma unroll
    for (int i = 0; i < kScores; ++i) {
      if (keys[i] != search.base) continue;
      marks[i / 32] |= static_cast<unsigned>(place[i / 4]++ < search.wanted) << i % 32;
    }
    __syncthreads();
  }
  /// Lists the positions of those from the k-th largest on, in ascending order, and writes them.
  __device__ void choose(const Part& part, const Keys& keys, const Search& search, unsigned row) const {
    Marks marks{};
    const bool ties = search.found != search.wanted;
    if (ties) mark_ties(keys, search, marks);
    const unsigned least = max(search.base, 1u) + (ties ? 1 : 0);
#pragma unroll
    for (int i = 0; i < kScores; ++i) marks[i / 32] |= static_cast<unsigned>(keys[i] >= least) << i % 32;
    Places place;
    places(marks, place);
#pragma unroll
    for (int i = 0; i < kScores; ++i) {
      if (marks[i / 32] >> i % 32 & 1) scratch().chosen[place[i / 4]++] = part.position(i / 4) + i % 4;
    }
    __syncthreads();
    const Writer write{args, static_cast<long long>(row)};
#pragma unroll 4
    for (int i = thread(); i < static_cast<int>(args.k); i += kThreads) write(i, scratch().chosen[i]);
  }

  __device__ void run(unsigned row) const {
    const sm90::TopKRange range = sm90::top_k_range(args, row);
    reinterpret_cast<int4*>(scratch().bins)[thread()] = int4{0, 0, 0, 0};
    const int length = static_cast<int>(sm90::top_k_length(args, range));
    __syncthreads();
    if (length == 0) {
      long long start;
      const Row all{args, nullptr, nullptr, nullptr, nullptr};
      all.write_all(row, all.range(row, start));
      return;
    }
    const Part part = part_of(args.scores + row * args.scores_row + static_cast<unsigned>(range.start), length);
    Keys keys;
    load(part, keys);
    int shift = 32 - kDigit;
    Search search{0, static_cast<int>(args.k), 0};
    narrow(search, shift);
#pragma unroll 1
    while (search.found != search.wanted && shift > 0) {
      const unsigned span = 1u << shift;
      shift = max(shift - kDigit, 0);
#pragma unroll
      for (const unsigned key : keys) count(key - search.base < span ? key - search.base >> shift : kTopKBins);
      narrow(search, shift);
    }
    choose(part, keys, search, row);
  }
};

template <int kPage, int kUnits>
__device__ void sm90_top_k_held(const TopKKernel& args) {
  Sm90TopKHeld<kPage, kUnits>{args}.run(blockIdx.x);
}

}  // namespace fathom
