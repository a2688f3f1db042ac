// The k largest scores of each of few rows on Hopper: a block a row, or the blocks of a cluster.
//
// Copies run ahead. A sample of the row gives a bound that the k largest very likely pass and not many others: what passes is
// listed, in any order, and counted by the first digits of its distance to it, until exactly k are left. These are marked in a
// bit for each score, and written in ascending order. A row that deceives the sample is left to the general kernel's search.
// The code is short, because a launch starts with none of it in the caches.
#pragma once
#include "ptx/barrier.cuh"
#include "ptx/memory.cuh"
#include "ptx/tma.cuh"
#include "sm90/top_k_rows.cuh"

namespace fathom {

/// kFours: float4 of a lane in a chunk. kList: candidates of a block. kSample: a row's scores that give the bound.
template <int kThreads, int kPage, int kBlocks, int kFours, int kList, int kSample>
struct Sm90TopKFew {
  using General = simt::TopK<kThreads, 0, true>;
  using Writer = typename simt::TopK<kThreads, kPage, true>::Writer;
  using Composite = unsigned long long;  // a key, and below it the position's complement: no two are equal
  static constexpr int kWarps = kThreads / 32;
  static constexpr int kCounting = kThreads < kTopKBins / 4 ? kThreads : kTopKBins / 4;  // threads that look at bins
  static constexpr int kEach = kTopKBins / kCounting;                                    // bins of each of them
  static constexpr int kChunk = 128 * kFours;
  static constexpr int kClose = 32;  // candidates that one warp can rank
  static constexpr int kSampled = (kSample + kThreads - 1) / kThreads;
  static_assert(kBlocks == 1 || kEach == 4, "bins of other blocks are read four at a time");
  static constexpr unsigned kShort = 4096;
  static_assert(kSample <= kList && kShort <= kList);

  struct alignas(4 * kEach) Bins {
    int of[kEach];
  };
  /// This block's part of a row: [begin, begin + edge) and the last (count - edge) % 4 scores one by one, the rest, which
  /// lies on 16 bytes, in chunks.
  struct Part {
    const float* scores;  // of the row
    unsigned length;      // of the row; 0 if it is none for this search
    unsigned begin, first, units, end;
  };

  const TopKKernel& args;
  int rank;   // of the block in its cluster
  int which;  // of the bins counts go to: where blocks share a row, they take turns

  // All of shared memory from its start on: through pointers that are kept the compiler loses sight of what they point to.
  static __device__ TopKFewScratch& scratch() { return static_cast<TopKFewScratch&>(General::scratch()); }
  static __device__ float* chunk_at() { return reinterpret_cast<float*>(&scratch() + 1) + warp() * kChunk; }
  static __device__ Composite* list() {
    return reinterpret_cast<Composite*>(reinterpret_cast<float*>(&scratch() + 1) + kWarps * kChunk);
  }
  static __device__ int* bins_at(int which) { return reinterpret_cast<int*>(list() + kList) + which * kTopKBins; }
  __device__ int* bins() const { return bins_at(kBlocks > 1 ? which : 0); }
  static __device__ unsigned* bits() { return reinterpret_cast<unsigned*>(bins_at(kBlocks > 1 ? 2 : 1)); }
  static __device__ u32 landed() { return ptx::shared_address(scratch().landed + warp()); }
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
  static __device__ int chunks(const Part& part) {
    return static_cast<int>(((part.units + kChunk / 4 - 1) / (kChunk / 4) + kWarps - 1 - static_cast<unsigned>(warp())) / kWarps);
  }
  /// Starts to copy a chunk of this warp. The whole warp has read the one before.
  static __device__ void fetch(const Part& part, int chunk) {
    if (simt::lane_id() != 0) return;
    const unsigned unit = static_cast<unsigned>(chunk * kWarps + warp()) * (kChunk / 4);
    const u32 bytes = 16 * min(kChunk / 4u, part.units - unit);
    ptx::mbarrier_arrive_expect_tx(landed(), bytes);
    ptx::cp_async_bulk(ptx::shared_address(chunk_at()), part.scores + part.first + 4 * unit, bytes, landed());
  }

  /// Of fewer scores all are candidates.
  static __device__ bool is_long(const Part& part) { return part.length > kBlocks * kShort; }
  static __device__ void load_sample(const Part& part, float (&sample)[kSampled]) {
#pragma unroll
    for (int i = 0; i < kSampled; ++i) {
      if (is_long(part) && (kSample >= kThreads || thread() < kSample)) {
        sample[i] = __ldg(part.scores + static_cast<unsigned>(thread() + i * kThreads) * part.length / kSample);
      }
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
  };

  static __device__ Composite raw(float score, unsigned position) {
    return static_cast<Composite>(__float_as_uint(score)) << 32 | ~position;
  }
  /// Turns a score on the list into its key, and counts it.
  __device__ void count(Bound from, Composite& entry) {
    const unsigned key = simt::top_k_key(__uint_as_float(static_cast<unsigned>(entry >> 32)));
    entry = static_cast<Composite>(key) << 32 | static_cast<unsigned>(entry);
    if (key >= from.key) atomicAdd(&bins()[min(key - from.key >> (from.shift - 32), kTopKBins - 1u)], 1);
  }
  /// Lists and counts what reaches the bound in a chunk of this warp, and fetches the next one in its place.
  __device__ void filter(Bound bound, const Part& part, int chunk, float least, int chunks) {
    const int lane = simt::lane_id();
    const int unit = (chunk * kWarps + warp()) * (kChunk / 4) + lane;
    const float* scores = chunk_at() + 4 * lane;
    constexpr unsigned kAll = kFours == 8 ? ~0u : (1u << 4 * kFours) - 1;
    unsigned reached = bound.key == 0 ? kAll : 0;  // with NaN, which is the least of all
#pragma unroll 4  // as a whole it would not stay in registers
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
    if (chunk + 1 < chunks) fetch(part, chunk + 1);
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

  static __device__ void meet(bool shared) {
    if (kBlocks > 1 && shared) {
      ptx::cluster_arrive();
      ptx::cluster_wait();
    } else {
      __syncthreads();
    }
  }
  /// Narrows the search to the digit whose bin has the wanted one, and clears the bins. Returns how many it has.
  __device__ int narrow(Search& search, bool shared) {
    // Thread t has the bins from the top: the first ones hold the largest keys.
    Bins* at = reinterpret_cast<Bins*>(bins()) + (kCounting - 1 - thread());
    const bool counting = kCounting == kThreads || thread() < kCounting;
    Bins own{};
    if (counting) own = *at;
    if (kBlocks > 1 && shared) {
#pragma unroll
      for (int other = 1; counting && other < kBlocks; ++other) {
        const u32 block = static_cast<u32>((rank + other) % kBlocks);
        const float4 four = ptx::ld_shared_cluster(ptx::mapa(ptx::shared_address(at), block));
        const float counts[] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) own.of[i] += __float_as_int(counts[i]);
      }
      // The others may still read these: the next round counts in the bins that everybody has read.
      which = 1 - which;
      at = reinterpret_cast<Bins*>(bins()) + (kCounting - 1 - thread());
    }
    if (counting) *at = Bins{};
    int sum = 0;
#pragma unroll
    for (int i = 0; i < kEach; ++i) sum += own.of[i];
    int total;
    int above = sm90::sum_before<kThreads>(sum, total, scratch().sums);
    if (above < search.wanted && search.wanted <= above + sum) {
#pragma unroll
      for (int i = kEach - 1; i >= 0; --i) {
        if (above < search.wanted && search.wanted <= above + own.of[i]) {
          scratch().digit = kTopKBins - kEach * (thread() + 1) + i;
          scratch().above_digit = above;
          scratch().in_digit = own.of[i];
        }
        above += own.of[i];
      }
    }
    __syncthreads();
    const int digit = scratch().digit;
    search.base += static_cast<Composite>(digit) << search.shift;
    if (digit != kTopKBins - 1) search.end = search.base + ((1ull << search.shift) - 1);
    search.wanted -= scratch().above_digit;
    return scratch().in_digit;
  }
  /// Narrows the search until all in its interval are wanted, there are at most `most`, or its digits are small enough.
  /// Returns how many there are.
  __device__ int descend(Search& search, int listed, int most, int last_shift, bool shared) {
#pragma unroll 1
    for (;;) {
      const int found = narrow(search, shared);
      if (found == search.wanted || found <= most || search.shift <= last_shift) return found;
      const Composite span = search.end - search.base;
      search.shift = max(64 - __clzll(static_cast<long long>(span)) - 11, 0);
#pragma unroll 1
      for (int i = thread(); i < listed; i += kThreads) {
        const Composite distance = list()[i] - search.base;
        if (distance <= span) atomicAdd(&bins()[distance >> search.shift], 1);
      }
      meet(shared);
    }
  }

  /// Puts the positions of the marked scores in ascending order, and clears the marks. Returns how many.
  __device__ int in_order(const Part& part, int* positions) {
    const unsigned words = (part.end - part.begin + 31) / 32;
    const unsigned each = (words + kThreads - 1) / kThreads;
    const unsigned begin = min(static_cast<unsigned>(thread()) * each, words);
    const unsigned end = min(begin + each, words);
    int mine = 0;
#pragma unroll 1
    for (unsigned w = begin; w < end; ++w) mine += __popc(bits()[w]);
    int total;
    int index = sm90::sum_before<kThreads>(mine, total, scratch().sums);
#pragma unroll 1
    for (unsigned w = begin; w < end; ++w) {
      unsigned word = bits()[w];
      bits()[w] = 0;
#pragma unroll 1
      for (; word != 0; word &= word - 1) positions[index++] = static_cast<int>(part.begin + 32 * w) + __ffs(static_cast<int>(word)) - 1;
    }
    return total;
  }

  static __device__ int remote(const int& value, int block) {
    return __float_as_int(ptx::ld_shared_cluster_1(ptx::mapa(ptx::shared_address(&value), static_cast<u32>(block))));
  }
  /// The candidates of the row, or -1 if a block has no room for its own.
  __device__ int candidates() const {
    int total = scratch().listed;
    bool fit = total <= kList;
#pragma unroll
    for (int other = 1; other < kBlocks; ++other) {
      const int count = remote(scratch().listed, (rank + other) % kBlocks);
      fit = fit && count <= kList;
      total += count;
    }
    return fit ? total : -1;
  }
  /// One warp: marks the wanted ones of the cluster's close candidates, and finds where this block writes.
  __device__ void look_closer(const Part& part, int wanted) {
    const int lane = simt::lane_id();
    Composite mine = 0;
    int all = scratch().few;
    int before = 0;
    if constexpr (kBlocks > 1) {
      all = 0;
#pragma unroll 1
      for (int block = 0; block < kBlocks; ++block) {
        const int few = remote(scratch().few, block);
        before += block < rank ? remote(scratch().sure, block) : 0;
        if (lane >= all && lane < all + few) {
          const int* entry = reinterpret_cast<const int*>(scratch().close + (lane - all));
          mine = static_cast<Composite>(static_cast<unsigned>(remote(entry[1], block))) << 32 |
                 static_cast<unsigned>(remote(entry[0], block));
        }
        all += few;
      }
    } else if (lane < all) {
      mine = scratch().close[lane];
    }
    int larger = 0;
#pragma unroll 1
    for (int i = 0; i < all; ++i) larger += __shfl_sync(~0u, mine, i) > mine;
    const unsigned position = ~static_cast<unsigned>(mine);
    const bool chosen = lane < all && larger < wanted;
    if (chosen && position >= part.begin && position < part.end) {
      atomicOr(&bits()[(position - part.begin) / 32], 1u << (position - part.begin) % 32);
    }
    if constexpr (kBlocks > 1) {
      before += __popc(__ballot_sync(~0u, chosen && position < part.begin));
      if (lane == 0) scratch().before = before;
    }
  }

  /// Finds the chosen positions of this block, in ascending order. Returns how many they are; the block writes them from
  /// scratch().before on.
  __device__ int choose(const Part& part, int listed, const Search& search, int found, int* positions) {
    const bool all = found == search.wanted;
    int sure = 0;
#pragma unroll 1
    for (int i = thread(); i < listed; i += kThreads) {
      const Composite entry = list()[i];
      if (entry < search.base) continue;
      if (all || entry > search.end) {
        const unsigned position = ~static_cast<unsigned>(entry) - part.begin;
        atomicOr(&bits()[position / 32], 1u << position % 32);
        ++sure;
      } else {
        scratch().close[atomicAdd(&scratch().few, 1)] = entry;
      }
    }
    if constexpr (kBlocks > 1) {
      sure = __reduce_add_sync(~0u, sure);
      if (simt::lane_id() == 0) atomicAdd(&scratch().sure, sure);
    }
    meet(true);
    if (warp() == 0) look_closer(part, search.wanted);
    if constexpr (kBlocks > 1) ptx::cluster_arrive_relaxed();
    __syncthreads();
    return in_order(part, positions);
  }

  __device__ void clear() {
#pragma unroll 1
    for (int i = thread(); i < (kBlocks > 1 ? 2 : 1) * kTopKBins; i += kThreads) bins_at(0)[i] = 0;
    const int words = static_cast<int>((min(static_cast<unsigned>(args.n), static_cast<unsigned>(kTopKLongestRow)) + 31) / 32);
#pragma unroll 1
    for (int i = thread(); i < words; i += kThreads) bits()[i] = 0;
  }

  /// All threads of the cluster.
  __device__ void run(unsigned row) {
    const sm90::TopKRange range = sm90::top_k_range(args, row);  // on its way meanwhile
    clear();
    const Part part = part_of(row, range);
    float sample[kSampled];
    load_sample(part, sample);  // before the chunks, which would hold it up
    const int mine = chunks(part);
    if (mine > 0) fetch(part, 0);
    const int k = static_cast<int>(args.k);
    Bound bound{0, 53};
    Search search;
    if (thread() == 0) scratch().listed = scratch().top = scratch().few = scratch().sure = 0;
    __syncthreads();
    int found = -1, close = 0;
#pragma unroll 1
    for (int phase = is_long(part) ? 0 : 1; phase < 2; ++phase) {
      int wanted = k;
      if (phase == 0) {
        const float root = rsqrtf(static_cast<float>(part.length));
        const float share = static_cast<float>(k * kSample) * root * root;
        wanted = min(static_cast<int>(share + 4.5f * share * rsqrtf(share)) + 4, kSample);
        unsigned top = 0;
#pragma unroll
        for (int i = 0; i < kSampled; ++i) {
          if (kSample < kThreads && thread() >= kSample) break;
          const unsigned key = simt::top_k_key(sample[i]);
          top = max(top, key);
          list()[thread() + i * kThreads] = static_cast<Composite>(key) << 32 | static_cast<unsigned>(thread() + i * kThreads);
          atomicAdd(&bins()[key >> 21], 1);
        }
        top = __reduce_max_sync(~0u, top);
        if (simt::lane_id() == 0) atomicMax(&scratch().top, top);
      } else {
        const float least = bound.key == 0 ? __uint_as_float(0xff800000u) : simt::top_k_score(bound.key);
#pragma unroll 1
        for (int i = 0; i < mine; ++i) {
          ptx::mbarrier_wait(landed(), i % 2);
          filter(bound, part, i, least, mine);
        }
        filter_edges(bound, part, least);
      }
      const bool shared = phase > 0;
      meet(shared);
      int count = kSample;
      if (shared) {
        found = candidates();
        count = scratch().listed;
        if (found < k) break;
      }
      search = {static_cast<Composite>(bound.key) << 32, ~0ull, bound.shift, wanted};
      close = descend(search, count, shared ? kClose : 0, shared ? 0 : 42, shared);
      if (shared) break;
      bound.key = static_cast<unsigned>(search.base >> 32);
      bound.shift = max(64 - __clz(static_cast<int>(scratch().top - bound.key)) - 11, 32);
    }
    int* positions = reinterpret_cast<int*>(list());
    int chosen = 0;
    if (found >= k) {
      chosen = choose(part, scratch().listed, search, close, positions);
      __syncthreads();
    } else {
      if (kBlocks > 1) meet(true);  // the others have read this block's number
      __syncthreads();
      if (rank == 0) {  // in the place of chunks and list
        unsigned* memory = reinterpret_cast<unsigned*>(&scratch() + 1);
        General{args, memory, reinterpret_cast<int*>(memory + kTopKCandidates), bins_at(0), bits()}.run(row);
      }
      __syncthreads();
      if (kPage > 0 && rank == 0) {  // it has left the pages out
        positions = args.out + row * args.out_row;
        chosen = k;
      }
    }
    const int before = kBlocks > 1 && found >= k ? scratch().before : 0;
    const Writer write{args, static_cast<long long>(row)};
#pragma unroll 1
    for (int i = thread(); i < chosen; i += kThreads) {
      const int position = positions[i];
      if (position >= 0) write(before + i, position);
    }
    if (kBlocks > 1 && found >= k) ptx::cluster_wait();  // the others have read what is this block's
  }
};

template <int kThreads, int kPage, int kBlocks, int kFours, int kList, int kSample>
__device__ void sm90_top_k_few(const TopKKernel& args) {
  using Block = Sm90TopKFew<kThreads, kPage, kBlocks, kFours, kList, kSample>;
  static_assert(kThreads / 32 * 128 * kFours + 2 * kList >= 2 * kTopKCandidates, "the general search has no room");
  if (simt::lane_id() == 0) {
    ptx::mbarrier_init(Block::landed(), 1);
    ptx::fence_mbarrier_init();
  }
  __syncwarp();
  Block block{args, kBlocks > 1 ? static_cast<int>(ptx::cluster_rank()) : 0, 0};
  block.run(blockIdx.x / kBlocks);
}

}  // namespace fathom
