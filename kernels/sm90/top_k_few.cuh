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

/// kSample: a row's scores that give the bound.
template <int kPage, int kBlocks, int kSample>
struct Sm90TopKFew {
  static constexpr int kThreads = kTopKFewThreads;  // each has a bin
  using General = simt::TopK<kThreads, 0, true>;
  using Writer = typename simt::TopK<kThreads, kPage, true>::Writer;
  using Composite = unsigned long long;  // a key, and below it the position's complement: no two are equal
  static constexpr int kWarps = kThreads / 32;
  static constexpr int kDigit = 9;  // bits
  static constexpr int kFours = kTopKFours;  // float4 of a lane in a chunk
  static constexpr int kChunk = 128 * kFours;
  static constexpr int kSlots = kTopKFewSlots;  // chunks of a warp under way
  static constexpr int kList = kTopKFewList;
  static constexpr int kClose = 32;  // candidates that are ranked one by one
  static constexpr int kSampled = kSample / kThreads;
  static constexpr int kRun = 16;  // samples next to one another
  static constexpr unsigned kShort = 4096;
  static_assert(kThreads == 1 << kDigit && kWarps * kSlots <= 32 && kSample % (2 * kThreads) == 0 && kSample <= kList && kShort <= kList);
  static_assert(kSample <= kShort, "a run of the sample may leave the row");
  static_assert(kWarps * kSlots * kChunk * 4 + 8 * kList >= top_k_shared_bytes(kTopKLongestRow), "the general search has no room");

  using Part = sm90::TopKPart;

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
    const unsigned edge = -static_cast<unsigned>(reinterpret_cast<unsigned long long>(part.scores) / 4) % 4;
    const float2* pairs = reinterpret_cast<const float2*>(part.scores + edge);
#pragma unroll
    for (int i = 0; i < kSampled; i += 2) {
      const unsigned number = static_cast<unsigned>(thread() + i / 2 * kThreads);
      if (!is_long(part)) continue;
      const float2 pair = __ldg(pairs + number / (kRun / 2) * ((part.length - edge) / 2) / (kSample / kRun) + number % (kRun / 2));
      sample[i] = pair.x;
      sample[i + 1] = pair.y;
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
    int own, own_before;  // in it, of this block and of those before
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
    unsigned reached = bound.key == 0 ? ~0u : 0;  // with NaN, which is the least of all
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
  __device__ void expect(int words) const { ptx::mbarrier_arrive_expect_tx(told(), 4 * words); }
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
    const int own = bins()[bin];
    int mine = own;
    bins()[bin] = 0;
    if (kBlocks > 1 && shared) {
      if (thread() == 0) expect((kBlocks - 1) * (kThreads + 1));
#pragma unroll
      for (int i = 1; i < kBlocks; ++i) {
        tell(bins_of(rank) + bin, mine, other(i));
        if (thread() == 0) tell(&scratch().listed_by[rank], scratch().listed, other(i));
      }
      ptx::mbarrier_wait_cluster(told(), round / 2 % 2);
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
      scratch().own_in_digit = own;
    }
    __syncthreads();
    const int digit = scratch().digit;
    search.base += static_cast<Composite>(digit) << search.shift;
    if (digit != kThreads - 1) search.end = search.base + ((1ull << search.shift) - 1);
    search.wanted -= whole(scratch().above_digit);
    search.before += before(scratch().above_digit);
    search.own = scratch().own_in_digit;
    search.own_before = before(scratch().in_digit);
    const int found = whole(scratch().in_digit);
    if (found == search.wanted) search.before += search.own_before;
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
    Search search{0, ~0ull, 64 - kDigit, wanted};
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
  /// A candidate that needs a closer look goes to all blocks.
  __device__ void tell_close(Composite entry, const Search& search) const {
    Composite* to = &scratch().close[search.own_before + atomicAdd(&scratch().few, 1)];
    *to = entry;
#pragma unroll
    for (int i = 1; i < kBlocks; ++i) {
      tell(to, static_cast<int>(entry), other(i));
      tell(reinterpret_cast<int*>(to) + 1, static_cast<int>(entry >> 32), other(i));
    }
  }
  /// Marks the wanted ones of the close candidates, some in every warp, and counts those before this block.
  __device__ void look_closer(const Part& part, const Search& search, int found) const {
    const int lane = simt::lane_id();
    if (kBlocks > 1) ptx::mbarrier_wait_cluster(told(), round / 2 % 2);
    const Composite mine = lane < found ? scratch().close[lane] : 0;
#pragma unroll 1
    for (int i = warp(); i < found; i += kWarps) {
      const Composite entry = scratch().close[i];
      const int larger = __popc(__ballot_sync(~0u, mine > entry));
      const unsigned position = ~static_cast<unsigned>(entry);
      if (lane != 0 || larger >= search.wanted || position >= part.end) continue;
      if (position < part.begin) {
        atomicAdd(&scratch().before, 1);
      } else {
        atomicOr(&bits()[(position - part.begin) / 32], 1u << (position - part.begin) % 32);
      }
    }
  }

  static constexpr int kAtOnce = 4;  // candidates of a thread: a load does not wait for what is done with the one before
  static __device__ void load_some(int first, int listed, Composite (&entries)[kAtOnce]) {
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) entries[i] = first + i * kThreads < listed ? list()[first + i * kThreads] : 0;
  }
  /// Writes the chosen positions of this block: each behind those that are marked before it.
  __device__ void choose(const Part& part, int listed, const Search& search, int found, unsigned row) {
    const bool all = found == search.wanted;
    if (thread() == 0) {
      scratch().before = search.before;
      if (kBlocks > 1 && !all) expect(2 * (found - search.own));
    }
    const Composite least = max(search.base, 1ull);  // 0 is none
    Composite entries[kAtOnce];
#pragma unroll 1
    for (int first = thread(); first < listed; first += kAtOnce * kThreads) {
      load_some(first, listed, entries);
      unsigned close = 0;
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const unsigned position = ~static_cast<unsigned>(entries[i]) - part.begin;
        const bool sure = all ? entries[i] >= least : entries[i] > search.end;
        if (sure) atomicOr(&bits()[position / 32], 1u << position % 32);
        if (entries[i] >= least && !sure) close |= 1u << i;
      }
#pragma unroll 1
      for (; close != 0; close &= close - 1) tell_close(list()[first + (__ffs(static_cast<int>(close)) - 1) * kThreads], search);
    }
    __syncthreads();
    if (!all) {
      look_closer(part, search, found);
      __syncthreads();
    }
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
#pragma unroll 1
    for (int first = thread(); first < listed; first += kAtOnce * kThreads) {
      load_some(first, listed, entries);
      unsigned at[kAtOnce], word[kAtOnce], before[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        at[i] = entries[i] != 0 ? ~static_cast<unsigned>(entries[i]) - part.begin : 0;
        word[i] = bits()[at[i] / 32];
        before[i] = static_cast<unsigned>(indices[at[i] / 32]);
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const unsigned bit = 1u << at[i] % 32;
        if (entries[i] != 0 && (word[i] & bit) != 0) {
          write(static_cast<int>(before[i]) + __popc(word[i] & (bit - 1)), static_cast<int>(part.begin + at[i]));
        }
      }
    }
  }

  __device__ void clear() {
    bins()[thread()] = 0;
    const int words = static_cast<int>((min(static_cast<unsigned>(args.n), static_cast<unsigned>(kTopKLongestRow)) / kBlocks + 32) / 32);
#pragma unroll 1
    for (int i = thread(); i < words; i += kThreads) bits()[i] = 0;
    if (thread() == 0) scratch().listed = scratch().top = scratch().few = 0;
  }

  /// All threads of the cluster.
  __device__ void run(unsigned row) {
    const sm90::TopKRange range = sm90::top_k_range(args, row);  // on its way meanwhile
    clear();
    const Part part = sm90::top_k_part<kBlocks>(args, row, range, rank);
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
    Search search{static_cast<Composite>(bound.key) << 32, ~0ull, bound.shift, k};
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

template <int kPage, int kBlocks, int kSample>
__device__ void sm90_top_k_few(const TopKKernel& args) {
  using Block = Sm90TopKFew<kPage, kBlocks, kSample>;
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
