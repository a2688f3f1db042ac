// The k largest scores of each of few rows on Hopper: a block a row, or the blocks of a cluster.
//
// Copies run ahead. A sample of the row gives a bound that the k largest very likely pass and not many others: what passes is
// listed, in any order, and counted by the first digits of its distance to it, until few are in doubt. The chosen ones are marked
// in a bit for each score, and written in ascending order. Blocks that share a row send one another their counts. A row that
// deceives the sample is left to the general kernel's search.
#pragma once
#include "ptx/barrier.cuh"
#include "ptx/memory.cuh"
#include "ptx/tma.cuh"
#include "sm90/top_k_rows.cuh"

namespace fathom {

/// kFours: float4 of a lane in a chunk. kSample: a row's scores that give the bound.
template <int kPage, int kBlocks, int kFours, int kSample>
struct Sm90TopKFew {
  static constexpr int kThreads = kTopKFewThreads;  // each has a bin
  using General = simt::TopK<kThreads, 0, true>;
  using Writer = typename simt::TopK<kThreads, kPage, true>::Writer;
  using Composite = unsigned long long;  // a key, and below it the position's complement: no two are equal
  static constexpr int kWarps = kThreads / 32;
  static constexpr int kDigit = 9;  // bits
  static constexpr int kChunk = 128 * kFours;
  static constexpr int kSlots = kTopKFewSlots;  // chunks of a warp under way
  static constexpr int kList = kTopKFewList;
  static constexpr int kClose = 32;  // candidates that one warp can rank
  static constexpr int kSampled = kSample / kThreads;
  static constexpr int kRun = 16;  // samples next to one another
  static constexpr unsigned kShort = 4096;
  static_assert(kThreads == 1 << kDigit && kWarps * kSlots <= 32 && kSample % kThreads == 0 && kSample <= kList && kShort <= kList);
  static_assert(kWarps * kSlots * kChunk * 4 + 8 * kList >= top_k_shared_bytes(kTopKLongestRow), "the general search has no room");

  /// This block's part of a row: [begin, begin + edge) and the last (count - edge) % 4 scores one by one, the rest, which
  /// lies on 16 bytes, in chunks.
  struct Part {
    const float* scores;  // of the row
    unsigned length;      // of the row; 0 if it is none for this search
    unsigned begin, first, units, end;
  };

  const TopKKernel& args;
  int rank;   // of the block in its cluster
  int round;  // of telling one another

  // All of shared memory from its start on: through pointers that are kept the compiler loses sight of what they point to.
  static __device__ TopKFewScratch& scratch() { return static_cast<TopKFewScratch&>(General::scratch()); }
  static __device__ float* chunks() { return reinterpret_cast<float*>(&scratch() + 1); }
  static __device__ float* slot(int number) { return chunks() + (number % kSlots * kWarps + warp()) * kChunk; }
  static __device__ Composite* list() { return reinterpret_cast<Composite*>(chunks() + kSlots * kWarps * kChunk); }
  static __device__ int* bins() { return reinterpret_cast<int*>(list() + kList); }
  /// The bins of another block. A block may be a round ahead, so rounds take turns.
  __device__ int* bins_of(int block) const { return bins() + (1 + round % 2 * kBlocks + block) * kThreads; }
  static __device__ unsigned* bits() { return reinterpret_cast<unsigned*>(bins() + (kBlocks > 1 ? 1 + 2 * kBlocks : 1) * kThreads); }
  static __device__ u32 landed(int number) { return ptx::shared_address(scratch().landed + number % kSlots * kWarps + warp()); }
  static __device__ int thread() { return static_cast<int>(threadIdx.x); }
  static __device__ int warp() { return static_cast<int>(threadIdx.x / 32); }

  __device__ Part part_of(unsigned row, sm90::TopKRange range) const {
    const unsigned length = sm90::top_k_length(args, range);
    Part part;
    part.length = length;
    part.scores = args.scores + row * args.scores_row + static_cast<unsigned>(range.start);
    const unsigned each = (length + kBlocks - 1) / kBlocks;
    part.begin = min(static_cast<unsigned>(rank) * each, length);
    part.end = min(part.begin + each, length);
    const unsigned edge = -(static_cast<unsigned>(reinterpret_cast<unsigned long long>(part.scores)) / 4 + part.begin) % 4;
    part.first = min(part.begin + edge, part.end);
    part.units = (part.end - part.first) / 4;
    return part;
  }
  /// Chunks of this warp.
  static __device__ int chunks_of(const Part& part) {
    return static_cast<int>(((part.units + kChunk / 4 - 1) / (kChunk / 4) + kWarps - 1 - static_cast<unsigned>(warp())) / kWarps);
  }
  /// Starts to copy a chunk of this warp. The whole warp has read the one that was in its place.
  static __device__ void fetch(const Part& part, int chunk) {
    if (simt::lane_id() != 0) return;
    const unsigned unit = static_cast<unsigned>(chunk * kWarps + warp()) * (kChunk / 4);
    const u32 bytes = 16 * min(kChunk / 4u, part.units - unit);
    ptx::mbarrier_arrive_expect_tx(landed(chunk), bytes);
    ptx::cp_async_bulk(ptx::shared_address(slot(chunk)), part.scores + part.first + 4 * unit, bytes, landed(chunk), ptx::kEvictFirst);
  }

  /// Of fewer scores all are candidates.
  static __device__ bool is_long(const Part& part) { return part.length > kBlocks * kShort; }
  /// Runs all over the row: scores one by one are rows of the memory opened for little, and come behind all chunks.
  static __device__ void load_sample(const Part& part, float (&sample)[kSampled]) {
#pragma unroll
    for (int i = 0; i < kSampled; ++i) {
      const unsigned number = static_cast<unsigned>(thread() + i * kThreads);
      if (is_long(part)) sample[i] = __ldg(part.scores + number / kRun * part.length / (kSample / kRun) + number % kRun);
    }
  }

  /// What candidates reach, and of which bits they are counted: positions in a Composite, as a Search has them.
  struct Bound {
    unsigned key;
    int shift;
  };
  struct Search {
    Composite base, end;  // the k-th largest lies in [base, end]
    int shift;            // of the next digit
    int wanted;           // of those in there
    int before;           // above it in the blocks before this one
  };

  static __device__ Composite raw(float score, unsigned position) {
    return static_cast<Composite>(__float_as_uint(score)) << 32 | ~position;
  }
  /// Turns a score on the list into its key, and counts it.
  __device__ void count(Bound from, Composite& entry) {
    const unsigned key = simt::top_k_key(__uint_as_float(static_cast<unsigned>(entry >> 32)));
    entry = static_cast<Composite>(key) << 32 | static_cast<unsigned>(entry);
    if (key >= from.key) atomicAdd(&bins()[min(key - from.key >> (from.shift - 32), kThreads - 1u)], 1);
  }
  /// Lists and counts what reaches the bound in a chunk of this warp, and fetches the next one in its place.
  __device__ void filter(Bound bound, const Part& part, int chunk, float least, int chunks) {
    const int lane = simt::lane_id();
    const int unit = (chunk * kWarps + warp()) * (kChunk / 4) + lane;
    const float* scores = slot(chunk) + 4 * lane;
    constexpr unsigned kAll = kFours == 8 ? ~0u : (1u << 4 * kFours) - 1;
    unsigned reached = bound.key == 0 ? kAll : 0;  // with NaN, which is the least of all
#pragma unroll
    for (int j = 0; j < kFours; ++j) {
      const float4 four = *reinterpret_cast<const float4*>(scores + 128 * j);
      if (four.x >= least) reached |= 1u << 4 * j;
      if (four.y >= least) reached |= 2u << 4 * j;
      if (four.z >= least) reached |= 4u << 4 * j;
      if (four.w >= least) reached |= 8u << 4 * j;
    }
    const int live = (static_cast<int>(part.units) - unit + 31) >> 5;  // units of this lane
    if (live < kFours) reached &= (1u << 4 * max(live, 0)) - 1;
    const int mine = __popc(reached);
    const int sum = simt::warp_inclusive_sum(mine, lane);
    int from = 0;
    if (lane == 31) from = atomicAdd(&scratch().listed, sum);
    from = __shfl_sync(~0u, from, 31);
    int all = __shfl_sync(~0u, sum, 31);
    if (from + all > kList) all = reached = 0;  // the tally tells
    Composite* low = list() + from + sum - mine;
    const unsigned first = part.first + 4 * static_cast<unsigned>(unit);
    Composite* high = low + mine;
    // The lowest and the highest at a time: a load of one does not wait for the other.
#pragma unroll 1
    while (reached != 0) {
      const int a = __ffs(static_cast<int>(reached)) - 1;
      const int b = 31 - __clz(static_cast<int>(reached));
      reached &= ~(1u << a | 1u << b);
      const unsigned at_a = static_cast<unsigned>(32 * (a & ~3) + (a & 3));
      const unsigned at_b = static_cast<unsigned>(32 * (b & ~3) + (b & 3));
      const float score_a = scores[at_a];
      const float score_b = scores[at_b];
      *low++ = raw(score_a, first + at_a);
      *--high = raw(score_b, first + at_b);  // the same if there is but one
    }
    __syncwarp();
    if (chunk + kSlots < chunks) fetch(part, chunk + kSlots);
#pragma unroll 1
    for (int i = lane; i < all; i += 32) count(bound, list()[from + i]);
  }
  /// The scores before the first whole 16 bytes and behind the last.
  __device__ void filter_edges(Bound bound, const Part& part, float least) {
    unsigned position = part.begin + static_cast<unsigned>(thread());
    if (position >= part.first) position += 4 * part.units;
    if (position >= part.end) return;
    const float score = part.scores[position];
    if (bound.key != 0 && !(score >= least)) return;
    const int at = atomicAdd(&scratch().listed, 1);
    if (at >= kList) return;
    list()[at] = raw(score, position);
    count(bound, list()[at]);
  }

  // Blocks send one another what they know instead of meeting: a barrier of the cluster that makes writes visible takes a fence.
  __device__ u32 told() const { return ptx::shared_address(&scratch().told[round % 2]); }
  __device__ void expect(int words) const { ptx::mbarrier_arrive_expect_tx(told(), 4 * (kBlocks - 1) * words); }
  __device__ void tell(const void* here, int value, int block) const {
    ptx::st_async(ptx::mapa(ptx::shared_address(here), static_cast<u32>(block)), __int_as_float(value),
                  ptx::mapa(told(), static_cast<u32>(block)));
  }
  __device__ int other(int number) const { return (rank + number) % kBlocks; }

  /// Of two counts in one: this cluster's, and that of the blocks before this one.
  static __device__ int whole(int counts) { return counts & 0xffff; }
  static __device__ int before(int counts) { return static_cast<int>(static_cast<unsigned>(counts) >> 16); }

  /// Narrows the search to the digit whose bin has the wanted one, and clears the bins. Returns how many it has.
  __device__ int narrow(Search& search, bool shared) {
    // Thread t has the bin from the top: the first ones hold the largest keys.
    const int bin = kThreads - 1 - thread();
    int mine = bins()[bin];
    bins()[bin] = 0;
    if (kBlocks > 1 && shared) {
      if (thread() == 0) expect(kThreads + 1);
#pragma unroll
      for (int i = 1; i < kBlocks; ++i) {
        tell(bins_of(rank) + bin, mine, other(i));
        if (thread() == 0) tell(&scratch().listed_by[rank], scratch().listed, other(i));
      }
      ptx::mbarrier_wait(told(), round / 2 % 2);
#pragma unroll
      for (int i = 1; i < kBlocks; ++i) {
        const int count = bins_of(other(i))[bin];
        mine += other(i) < rank ? count << 16 | count : count;
      }
      ++round;
    }
    int total;
    const int above = sm90::sum_before<kThreads>(mine, total, scratch().sums);
    if (whole(above) < search.wanted && search.wanted <= whole(above + mine)) {
      scratch().digit = kThreads - 1 - thread();
      scratch().above_digit = above;
      scratch().in_digit = mine;
    }
    __syncthreads();
    const int digit = scratch().digit;
    search.base += static_cast<Composite>(digit) << search.shift;
    if (digit != kThreads - 1) search.end = search.base + ((1ull << search.shift) - 1);
    search.wanted -= whole(scratch().above_digit);
    search.before += before(scratch().above_digit);
    const int found = whole(scratch().in_digit);
    if (found == search.wanted) search.before += before(scratch().in_digit);
    return found;
  }
  /// Narrows the search until all `found` in its interval are wanted, there are at most `most`, or its digits are small enough.
  /// Returns how many there are.
  __device__ int descend(Search& search, int found, int listed, int most, int last_shift, bool shared) {
#pragma unroll 1
    while (found != search.wanted && found > most && search.shift > last_shift) {
      const Composite span = search.end - search.base;
      search.shift = max(64 - kDigit - __clzll(static_cast<long long>(span)), 0);
#pragma unroll 1
      for (int i = thread(); i < listed; i += kThreads) {
        const Composite distance = list()[i] - search.base;
        if (distance <= span) atomicAdd(&bins()[distance >> search.shift], 1);
      }
      __syncthreads();
      found = narrow(search, shared);
    }
    return found;
  }

  /// A score that at least k scores of the row very likely reach, and few others.
  __device__ Bound bound_of(const Part& part, const float (&sample)[kSampled]) {
    const float root = rsqrtf(static_cast<float>(part.length));
    const float share = static_cast<float>(static_cast<int>(args.k) * kSample) * root * root;
    const int wanted = min(static_cast<int>(share + 4.5f * share * rsqrtf(share)) + 4, kSample);
    unsigned top = 0;
#pragma unroll
    for (int i = 0; i < kSampled; ++i) {
      const unsigned key = simt::top_k_key(sample[i]);
      top = max(top, key);
      list()[thread() + i * kThreads] = static_cast<Composite>(key) << 32;
      atomicAdd(&bins()[key >> (32 - kDigit)], 1);
    }
    top = __reduce_max_sync(~0u, top);
    if (simt::lane_id() == 0) atomicMax(&scratch().top, top);
    __syncthreads();
    Search search{0, ~0ull, 64 - kDigit, wanted, 0};
    const int found = narrow(search, false);
    descend(search, found, kSample, 4, 32, false);
    const unsigned key = static_cast<unsigned>(search.base >> 32);
    return {key, max(64 - kDigit - __clz(static_cast<int>(scratch().top - key)), 32)};
  }

  /// The candidates of the row, or -1 if a block has no room for its own.
  __device__ int candidates() const {
    int total = scratch().listed;
    bool fit = total <= kList;
#pragma unroll
    for (int i = 1; i < kBlocks; ++i) {
      const int count = scratch().listed_by[other(i)];
      fit = fit && count <= kList;
      total += count;
    }
    return fit ? total : -1;
  }
  /// One warp: marks the wanted ones of the cluster's close candidates, and finds where this block writes.
  __device__ void look_closer(const Part& part, const Search& search) {
    const int lane = simt::lane_id();
    const Composite own = scratch().close[lane];
    if constexpr (kBlocks > 1) {
      if (lane == 0) expect(2 * kClose);
#pragma unroll
      for (int i = 1; i < kBlocks; ++i) {
        unsigned long long* to = &scratch().close_of[rank][lane];
        tell(to, static_cast<int>(own), other(i));
        tell(reinterpret_cast<int*>(to) + 1, static_cast<int>(own >> 32), other(i));
      }
      ptx::mbarrier_wait(told(), round / 2 % 2);
    }
    Composite mine = 0;
    int all = 0;
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      const Composite entry = block == rank ? own : scratch().close_of[block][lane];
      const Composite moved = __shfl_sync(~0u, entry, lane - all & 31);
      if (lane >= all && mine == 0) mine = moved;
      all += __popc(__ballot_sync(~0u, entry != 0));
    }
    int larger = 0;
#pragma unroll 4
    for (int i = 0; i < all; ++i) larger += __shfl_sync(~0u, mine, i) > mine;
    const unsigned position = ~static_cast<unsigned>(mine);
    const bool chosen = lane < all && larger < search.wanted;
    if (chosen && position >= part.begin && position < part.end) {
      atomicOr(&bits()[(position - part.begin) / 32], 1u << (position - part.begin) % 32);
    }
    const int before = __popc(__ballot_sync(~0u, chosen && position < part.begin));
    if (lane == 0) scratch().before = search.before + before;
  }

  /// The candidates of a thread, some at a time: a load does not wait for what is done with the one before.
  template <class Use>
  static __device__ void each_listed(int listed, Use use) {
    constexpr int kAtOnce = 4;
#pragma unroll 1
    for (int first = thread(); first < listed; first += kAtOnce * kThreads) {
      Composite entries[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) entries[i] = first + i * kThreads < listed ? list()[first + i * kThreads] : 0;
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        if (entries[i] != 0) use(entries[i]);
      }
    }
  }
  /// Writes the chosen positions of this block: each behind those that are marked before it.
  __device__ void choose(const Part& part, int listed, const Search& search, int found, unsigned row) {
    const bool all = found == search.wanted;
    each_listed(listed, [&](Composite entry) {
      if (entry < search.base) return;
      if (all || entry > search.end) {
        const unsigned position = ~static_cast<unsigned>(entry) - part.begin;
        atomicOr(&bits()[position / 32], 1u << position % 32);
      } else {
        scratch().close[atomicAdd(&scratch().few, 1)] = entry;
      }
    });
    if (thread() == 0) scratch().before = search.before;
    __syncthreads();
    if (!all && warp() == 0) look_closer(part, search);
    __syncthreads();
    const unsigned words = (part.end - part.begin + 31) / 32;
    const unsigned each = (words + kThreads - 1) / kThreads;
    const unsigned begin = min(static_cast<unsigned>(thread()) * each, words);
    const unsigned end = min(begin + each, words);
    int mine = 0;
#pragma unroll 1
    for (unsigned w = begin; w < end; ++w) mine += __popc(bits()[w]);
    int total;
    int index = scratch().before + sm90::sum_before<kThreads>(mine, total, scratch().sums);
    int* const indices = reinterpret_cast<int*>(chunks());  // of the first one in each word
#pragma unroll 1
    for (unsigned w = begin; w < end; ++w) {
      indices[w] = index;
      index += __popc(bits()[w]);
    }
    __syncthreads();
    const Writer write{args, static_cast<long long>(row)};
    each_listed(listed, [&](Composite entry) {
      const unsigned position = ~static_cast<unsigned>(entry);
      const unsigned at = position - part.begin;
      const unsigned word = bits()[at / 32];
      const unsigned bit = 1u << at % 32;
      if ((word & bit) != 0) write(indices[at / 32] + __popc(word & (bit - 1)), static_cast<int>(position));
    });
  }

  __device__ void clear() {
    bins()[thread()] = 0;
    const int words = static_cast<int>((min(static_cast<unsigned>(args.n), static_cast<unsigned>(kTopKLongestRow)) / kBlocks + 32) / 32);
#pragma unroll 1
    for (int i = thread(); i < words; i += kThreads) bits()[i] = 0;
    if (thread() < kClose) scratch().close[thread()] = 0;
    if (thread() == 0) scratch().listed = scratch().top = scratch().few = 0;
  }

  /// All threads of the cluster.
  __device__ void run(unsigned row) {
    const sm90::TopKRange range = sm90::top_k_range(args, row);  // on its way meanwhile
    clear();
    const Part part = part_of(row, range);
    float sample[kSampled];
    load_sample(part, sample);
    const int mine = chunks_of(part);
    if (mine > 0) fetch(part, 0);
    const int k = static_cast<int>(args.k);
    __syncthreads();
    const Bound bound = is_long(part) ? bound_of(part, sample) : Bound{0, 64 - kDigit};
    const float least = bound.key == 0 ? __uint_as_float(0xff800000u) : simt::top_k_score(bound.key);
    // Not before: a thread waits for the copy engine where much is under way.
#pragma unroll
    for (int i = 1; i < kSlots; ++i) {
      if (i < mine) fetch(part, i);
    }
#pragma unroll 1
    for (int i = 0; i < mine; ++i) {
      ptx::mbarrier_wait(landed(i), i / kSlots % 2);
      filter(bound, part, i, least, mine);
    }
    filter_edges(bound, part, least);
    __syncthreads();
    if (kBlocks > 1) ptx::cluster_wait();  // the others have begun
    const int listed = scratch().listed;
    Search search{static_cast<Composite>(bound.key) << 32, ~0ull, bound.shift, k, 0};
    int found = narrow(search, true);
    if (candidates() >= k) {
      found = descend(search, found, listed, kClose, 0, true);
      choose(part, listed, search, found, row);
      return;
    }
    if (rank != 0) return;
    __syncthreads();
    unsigned* memory = reinterpret_cast<unsigned*>(chunks());  // and of the list
    int* counts = reinterpret_cast<int*>(memory + 2 * kTopKCandidates);
    General{args, memory, reinterpret_cast<int*>(memory + kTopKCandidates), counts, memory + 2 * kTopKCandidates + kTopKBins}.run(row);
    if (kPage == 0) return;
    __syncthreads();  // it has left the pages out
    const Writer write{args, static_cast<long long>(row)};
#pragma unroll 1
    for (int i = thread(); i < k; i += kThreads) {
      const int position = args.out[row * args.out_row + i];
      if (position >= 0) write(i, position);
    }
  }
};

template <int kPage, int kBlocks, int kFours, int kSample>
__device__ void sm90_top_k_few(const TopKKernel& args) {
  using Block = Sm90TopKFew<kPage, kBlocks, kFours, kSample>;
  if (simt::lane_id() == 0) {
#pragma unroll
    for (int i = 0; i < Block::kSlots; ++i) ptx::mbarrier_init(Block::landed(i), 1);
    if (kBlocks > 1 && threadIdx.x == 0) {
#pragma unroll
      for (unsigned long long& told : Block::scratch().told) ptx::mbarrier_init(ptx::shared_address(&told), 1);
    }
    ptx::fence_mbarrier_init();
  }
  __syncwarp();
  if (kBlocks > 1) ptx::cluster_arrive_relaxed();
  Block block{args, kBlocks > 1 ? static_cast<int>(ptx::cluster_rank()) : 0, 0};
  block.run(blockIdx.x / kBlocks);
}

}  // namespace fathom
