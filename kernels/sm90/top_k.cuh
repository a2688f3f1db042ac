// The k largest scores of each row on Hopper: a block a row, one row after the other.
//
// Copies run ahead into the next row. A warp has scores next to one another; samples of them give all warps a bound that the k
// largest very likely reach, and few others. Those are listed, ascending within a chunk, and counted by digits of their distance
// to it until few are in doubt. Then every warp writes its own. Rows that deceive the sample are left to the general search.
#pragma once
#include "ptx/barrier.cuh"
#include "ptx/memory.cuh"
#include "ptx/tma.cuh"
#include "sm90/top_k_rows.cuh"

namespace fathom {

/// kList: candidates of a row. kSampled: scores of a lane that give the bound.
template <int kThreads, int kPage, int kList, int kSampled>
struct Sm90TopK {
  using General = simt::TopK<kThreads, kPage, true>;
  using Composite = unsigned long long;  // a key, and below it the position's complement: no two are equal
  static constexpr int kWarps = kThreads / 32;
  static constexpr int kCounting = kThreads < kTopKBins / 4 ? kThreads : kTopKBins / 4;  // threads that look at bins
  static constexpr int kEach = kTopKBins / kCounting;                                    // bins of each of them
  static constexpr int kFours = kTopKFours;                                              // float4 of a lane in a chunk
  static constexpr int kMine = 4 * kFours;                                               // scores of them
  static constexpr int kChunk = 32 * kMine;
  static constexpr int kClose = 32;  // candidates that one warp can rank
  static constexpr unsigned kShort = 4096;  // of fewer scores all are candidates
  static constexpr int kLeft = -2;  // in place of a row's first position; what an offset makes the same is only done again
  static_assert(kShort < kList && kWarps <= 32 && kMine == 32 && kMine % kSampled == 0);
  static_assert(kWarps * kChunk * 4 + 8 * kList >= 8 * kTopKCandidates + kTopKLongestRow / 8);

  struct alignas(4 * kEach) Bins {
    int of[kEach];
  };
  /// A row: first() scores one by one, then units() of 16 bytes in chunks, then up to three scores.
  struct Part {
    const float* scores;
    unsigned length;  // 0 if it is none for this search
    __device__ unsigned first() const {
      return min(-static_cast<unsigned>(reinterpret_cast<unsigned long long>(scores) / 4) % 4, length);
    }
    __device__ unsigned units() const { return (length - first()) / 4; }
    __device__ unsigned behind() const { return first() + 4 * units(); }
    __device__ unsigned chunks() const { return (units() + kChunk / 4 - 1) / (kChunk / 4); }
    /// Of each warp, next to one another.
    __device__ unsigned share() const { return (chunks() + kWarps - 1) / kWarps; }
  };

  const TopKKernel& args;

  // All of shared memory from its start on: through pointers that are kept the compiler loses sight of what they point to.
  static __device__ TopKManyScratch& scratch() { return static_cast<TopKManyScratch&>(General::scratch()); }
  static __device__ float* ring() { return reinterpret_cast<float*>(&scratch() + 1); }
  static __device__ float* chunk() { return ring() + warp() * kChunk; }
  static __device__ Composite* list() { return reinterpret_cast<Composite*>(ring() + kWarps * kChunk); }
  static __device__ int* bins() { return reinterpret_cast<int*>(list() + kList); }
  /// Of the scores before the chunks, each chunk, and the scores behind: where its candidates are listed, and how many << 16.
  static __device__ unsigned* places() { return reinterpret_cast<unsigned*>(bins() + kTopKBins); }
  static __device__ u32 landed() { return ptx::shared_address(scratch().landed + warp()); }
  static __device__ int thread() { return static_cast<int>(threadIdx.x); }
  static __device__ int warp() { return static_cast<int>(threadIdx.x / 32); }

  __device__ Part part_of(unsigned row, sm90::TopKRange range) const {
    return {args.scores + row * args.scores_row + static_cast<unsigned>(range.start), sm90::top_k_length(args, range)};
  }
  /// Chunks of this warp.
  static __device__ int chunks_of_warp(const Part& part) {
    const int share = static_cast<int>(part.share());
    return max(min(share, static_cast<int>(part.chunks()) - warp() * share), 0);
  }

  /// Starts to copy a chunk of this warp. The whole warp has read the one before.
  static __device__ void fetch(const Part& part, int number) {
    if (simt::lane_id() != 0) return;
    const unsigned unit = (static_cast<unsigned>(warp()) * part.share() + static_cast<unsigned>(number)) * (kChunk / 4);
    const u32 bytes = 16 * min(kChunk / 4u, part.units() - unit);
    ptx::mbarrier_arrive_expect_tx(landed(), bytes);
    ptx::cp_async_bulk(ptx::shared_address(chunk()), part.scores + part.first() + 4 * unit, bytes, landed(), ptx::kEvictFirst);
  }

  static __device__ bool is_long(const Part& part) { return part.length > kShort; }
  /// Warps whose first chunk is a whole one.
  static __device__ int samplers(const Part& part) {
    const unsigned whole = part.units() / (kChunk / 4);
    return static_cast<int>((whole + part.share() - 1) / part.share());
  }
  /// The largest key of a warp after `times` of them have been left out, equal ones as one.
  template <int kOf>
  static __device__ unsigned largest_but(int times, unsigned (&keys)[kOf]) {  // in descending order
#pragma unroll 1
    for (int i = 0; i < times; ++i) {
      if (keys[0] != __reduce_max_sync(~0u, keys[0])) continue;
#pragma unroll
      for (int j = 0; j + 1 < kOf; ++j) keys[j] = keys[j + 1];
      keys[kOf - 1] = 0;
    }
    return __reduce_max_sync(~0u, keys[0]);
  }
  /// How a row is sampled.
  struct Sample {
    int each;    // scores of a lane
    int wanted;  // of a warp's reach the bound if scores lie alike in all of the row
    int least;   // of all warps' have to, or fewer than k scores may reach it
    int most;    // may, or the list may be too short
  };
  __device__ Sample sample_of(const Part& part) const {
    const float length = static_cast<float>(part.length);
    const float k = static_cast<float>(static_cast<int>(args.k));
    const float warps = static_cast<float>(samplers(part));
    Sample sample;
    // So many that about eight of a warp's are among the k largest.
    sample.each = min(static_cast<int>(length * rsqrtf(k) * rsqrtf(k) * 0.25f) + 1, kSampled);
    const float rate = 32.0f * static_cast<float>(sample.each) * rsqrtf(length) * rsqrtf(length);
    const float spread = k * rate * rsqrtf(k * rate * warps);
    sample.wanted = min(static_cast<int>(k * rate + 5.6f * spread) + 2, 32 * sample.each);
    sample.least = min(static_cast<int>(warps * (k * rate + 4.5f * spread)) + 4, samplers(part) * sample.wanted);
    sample.most = max(static_cast<int>(0.85f * kList * rate * warps), sample.least + sample.least / 8);
    return sample;
  }
  static __device__ float score(int j) {
    const int lane = simt::lane_id();
    return chunk()[lane * kMine + (lane + j * (kMine / kSampled)) % kMine];
  }
  static __device__ unsigned sampled(int j) { return simt::top_k_key(score(j)); }
  /// Of the chunk of this warp, from its sample: what `wanted` reach, and the largest.
  static __device__ void sample(const Sample& sample) {
    unsigned keys[kSampled];
#pragma unroll
    for (int j = 0; j < kSampled; ++j) {
      keys[j] = j < sample.each ? sampled(j) : 0;
#pragma unroll
      for (int i = j; i > 0; --i) {
        const unsigned high = max(keys[i - 1], keys[i]);
        keys[i] = min(keys[i - 1], keys[i]);
        keys[i - 1] = high;
      }
    }
    const unsigned top = __reduce_max_sync(~0u, keys[0]);
    const unsigned key = largest_but(sample.wanted - 1, keys);
    if (simt::lane_id() == 0) scratch().sampled[warp()] = {key, top};
  }

  /// What candidates reach, and of which bits they are counted: positions in a Composite.
  struct Bound {
    unsigned key;
    int shift;
  };
  static __device__ Composite composite(float score, unsigned complement) {
    return static_cast<Composite>(simt::top_k_key(score)) << 32 | complement;
  }

  /// Where a lane's candidates go on the list. All of a warp or none find room: then the tally tells.
  static __device__ Composite* room(int place, unsigned& reached) {
    const int lane = simt::lane_id();
    const int mine = __popc(reached);
    const int sum = simt::warp_inclusive_sum(mine, lane);
    int from = 0;
    if (lane == 31) from = atomicAdd(&scratch().listed, sum);
    from = __shfl_sync(~0u, from, 31);
    const int all = __shfl_sync(~0u, sum, 31);
    if (from + all > kList) reached = 0;
    if (lane == 31) places()[place] = static_cast<unsigned>(from | all << 16);
    return list() + from + sum - mine;
  }
  /// Counts a candidate, and returns it.
  static __device__ Composite counted(Composite entry, Bound bound) {
    const unsigned distance = static_cast<unsigned>(entry >> 32) - bound.key;
    atomicAdd(&bins()[min(distance >> (bound.shift - 32), kTopKBins - 1u)], 1);
    return entry;
  }
  /// Lists and counts what reaches the bound in a chunk of this warp.
  static __device__ void filter(const Part& part, int chunk_of_warp, Bound bound) {
    const unsigned lane = static_cast<unsigned>(simt::lane_id());
    const unsigned number = static_cast<unsigned>(warp()) * part.share() + static_cast<unsigned>(chunk_of_warp);
    const unsigned at = number * kChunk + lane * kMine;
    const float* own = chunk() + lane * kMine;
    // Neighbours begin with different ones of their vectors, which lie in different banks.
    const unsigned turn = lane * kFours / 8 % kFours;
    // The sign of a difference says it: `under` is the next smaller score, and 0 has two of them above.
    const float under = simt::top_k_score(bound.key - (bound.key == 0x80000000u ? 2 : 1));
    unsigned reached = 0;
#pragma unroll
    for (unsigned j = kFours; j-- > 0;) {
      const float4 four = *reinterpret_cast<const float4*>(own + 4 * ((j + turn) % kFours));
      const float scores[] = {four.w, four.z, four.y, four.x};
#pragma unroll
      for (int i = 0; i < 4; ++i) reached = reached << 1 | __float_as_uint(under - scores[i]) >> 31;
    }
    reached = reached << 4 * turn | reached >> (-(4 * turn) & 31);
    if (bound.key == 0) reached = ~0u;  // with NaN, which is the least of all
    const int live = static_cast<int>(4 * part.units() - at);
    if (live < 32) reached &= (1u << max(live, 0)) - 1;
    Composite* low = room(1 + static_cast<int>(number), reached);
    Composite* high = low + __popc(reached);
    const unsigned complement = ~(part.first() + at);
    // The lowest and the highest at a time: a load of one does not wait for the other.
#pragma unroll 1
    while (reached != 0) {
      const unsigned a = static_cast<unsigned>(__ffs(static_cast<int>(reached)) - 1);
      const unsigned b = static_cast<unsigned>(31 - __clz(static_cast<int>(reached)));
      reached &= ~(1u << a | 1u << b);
      const float score_a = own[a];
      const float score_b = own[b];
      *low++ = counted(composite(score_a, complement - a), bound);
      --high;
      if (a != b) *high = counted(composite(score_b, complement - b), bound);
    }
    __syncwarp();
  }
  /// The same for the scores before the chunks or behind them, at most three.
  static __device__ void filter_edge(const Part& part, int place, unsigned from, unsigned to, Bound bound, float least) {
    const unsigned position = from + static_cast<unsigned>(simt::lane_id());
    float score = 0;
    unsigned reached = 0;
    if (position < to) {
      score = part.scores[position];
      reached = bound.key == 0 || score >= least;
    }
    Composite* entry = room(place, reached);
    if (reached != 0) *entry = counted(composite(score, ~position), bound);
  }

  struct Digit {
    int value, above, in;  // how many have larger ones, and how many it
  };
  /// The digit that the wanted one has. Clears the bins.
  static __device__ Digit narrow(int wanted) {
    // Thread t has the bins from the top: the first ones hold the largest keys.
    Bins* at = reinterpret_cast<Bins*>(bins()) + (kCounting - 1 - thread());
    const bool counting = kCounting == kThreads || thread() < kCounting;
    Bins own{};
    if (counting) {
      own = *at;
      *at = Bins{};
    }
    int sum = 0;
#pragma unroll
    for (int i = 0; i < kEach; ++i) sum += own.of[i];
    int total;
    int above = sm90::sum_before<kThreads>(sum, total, scratch().sums);
    if (above < wanted && wanted <= above + sum) {
#pragma unroll
      for (int i = kEach - 1; i >= 0; --i) {
        if (above < wanted && wanted <= above + own.of[i]) {
          scratch().digit = kTopKBins - kEach * (thread() + 1) + i;
          scratch().above_digit = above;
          scratch().in_digit = own.of[i];
        }
        above += own.of[i];
      }
    }
    __syncthreads();
    return {scratch().digit, scratch().above_digit, scratch().in_digit};
  }

  /// A score that at least k scores of the row very likely reach, and few others.
  static __device__ Bound bound_of(const Sample& sample, int samplers) {
    const int lane = simt::lane_id();
    unsigned keys[1] = {lane < samplers ? scratch().sampled[lane].key : 0};
    const unsigned lowest = ~__reduce_max_sync(~0u, lane < samplers ? ~keys[0] : 0);
    const unsigned top = __reduce_max_sync(~0u, lane < samplers ? scratch().sampled[lane].top : 0);
    unsigned key = largest_but(samplers / 2, keys);
    const float least = simt::top_k_score(key);
    int reached = 0;
#pragma unroll
    for (int j = 0; j < kSampled; ++j) reached += warp() < samplers && j < sample.each && score(j) >= least;
    reached = __reduce_add_sync(~0u, reached);
    if (lane == 0) scratch().sums[warp()] = reached;
    __syncthreads();
    reached = __reduce_add_sync(~0u, lane < kWarps ? scratch().sums[lane] : 0);
    if (reached < sample.least || reached > sample.most) {  // scores do not lie alike: what all warps sampled decides
      if (reached < sample.least) key = lowest;
      const int shift = max(32 - __clz(static_cast<int>(top - key)) - 11, 0);
#pragma unroll 1
      for (int j = 0; warp() < samplers && j < sample.each; ++j) {
        if (sampled(j) >= key) atomicAdd(&bins()[sampled(j) - key >> shift], 1);
      }
      __syncthreads();
      key += static_cast<unsigned>(narrow(sample.least).value) << shift;
    }
    return {key, max(64 - __clz(static_cast<int>(top - key)) - 11, 32)};
  }

  struct Search {
    Composite base, end;  // the k-th largest lies in [base, end]
    int wanted;           // of those in there
  };
  /// Narrows the search for the k-th largest until all in its interval are wanted or one warp can rank them.
  __device__ Search descend(Bound bound, int listed) const {
    Search search{static_cast<Composite>(bound.key) << 32, ~0ull, static_cast<int>(args.k)};
    int shift = bound.shift;
#pragma unroll 1
    for (;;) {
      const Digit digit = narrow(search.wanted);
      search.base += static_cast<Composite>(digit.value) << shift;
      if (digit.value != kTopKBins - 1) search.end = search.base + ((1ull << shift) - 1);
      search.wanted -= digit.above;
      if (digit.in == search.wanted) search.end = search.base - 1;  // nothing is in doubt
      if (digit.in == search.wanted || digit.in <= kClose) return search;
      const Composite span = search.end - search.base;
      shift = max(64 - __clzll(static_cast<long long>(span)) - 11, 0);
#pragma unroll 1
      for (int i = thread(); i < listed; i += kThreads) {
        const Composite distance = list()[i] - search.base;
        if (distance <= span) atomicAdd(&bins()[distance >> shift], 1);
      }
      __syncthreads();
    }
  }

  /// The k-th largest, of those in doubt. Adds to `before` how many of these are chosen below `position`.
  static __device__ Composite look_closer(const Search& search, unsigned position, int& before) {
    const int lane = simt::lane_id();
    const int few = scratch().few;
    if (few == 0) return search.base;
    const Composite mine = lane < few ? scratch().close[lane] : 0;
    int larger = 0;
#pragma unroll 4
    for (int i = 0; i < few; ++i) larger += scratch().close[i] > mine;
    before += __popc(__ballot_sync(~0u, lane < few && larger < search.wanted && ~static_cast<unsigned>(mine) < position));
    const unsigned last = __ballot_sync(~0u, lane < few && larger == search.wanted - 1);
    return __shfl_sync(~0u, mine, __ffs(static_cast<int>(last)) - 1);
  }
  /// Writes the chosen positions of a row: every warp those of its own chunks.
  __device__ void choose(const Part& part, const Search& search, unsigned row) const {
    const int lane = simt::lane_id();
    const int chunks = static_cast<int>(part.chunks());
    const int share = static_cast<int>(part.share());
    const int begin = warp() == 0 ? 0 : 1 + min(warp() * share, chunks);
    const int end = warp() == kWarps - 1 ? chunks + 2 : 1 + min((warp() + 1) * share, chunks);
    int sure = 0;
#pragma unroll 1
    for (int place = begin; place < end; ++place) {
      const unsigned from = places()[place] & 0xffff;
      const unsigned to = from + (places()[place] >> 16);
#pragma unroll 1
      for (unsigned i = from + static_cast<unsigned>(lane); i < to; i += 32) {
        const Composite entry = list()[i];
        if (entry < search.base) continue;
        if (entry > search.end) {
          ++sure;
        } else {
          scratch().close[atomicAdd(&scratch().few, 1)] = entry;
        }
      }
    }
    sure = __reduce_add_sync(~0u, sure);
    if (lane == 0) scratch().sums[warp()] = sure;
    __syncthreads();
    int index = __reduce_add_sync(~0u, lane < warp() ? scratch().sums[lane] : 0);
    const unsigned position = begin == 0 ? 0 : min(part.first() + static_cast<unsigned>(begin - 1) * kChunk, part.behind());
    const Composite least = look_closer(search, position, index);
    const typename General::Writer write{args, static_cast<long long>(row)};
    int* const out = args.out + row * args.out_row;
#pragma unroll 1
    for (int place = begin; place < end; ++place) {
      const unsigned from = places()[place] & 0xffff;
      const unsigned to = from + (places()[place] >> 16);
#pragma unroll 1
      for (unsigned i = from; i < to; i += 32) {
        const Composite entry = i + static_cast<unsigned>(lane) < to ? list()[i + static_cast<unsigned>(lane)] : 0;
        const unsigned chosen = __ballot_sync(~0u, entry >= least);
        if (chosen >> lane & 1) {
          out[index + __popc(chosen & (1u << lane) - 1)] = write.value(static_cast<int>(~static_cast<unsigned>(entry)));
        }
        index += __popc(chosen);
      }
    }
  }

  /// All threads of the block.
  __device__ void run() const {
    for (int i = thread(); i < kTopKBins; i += kThreads) bins()[i] = 0;
    if (thread() == 0) scratch().listed = 0;
    unsigned row = blockIdx.x;
    Part part = part_of(row, sm90::top_k_range(args, row));
    if (chunks_of_warp(part) > 0) fetch(part, 0);
    u32 parity = 0;
    bool left = false;  // rows are left to the general search
#pragma unroll 1
    for (; row < args.rows; row += gridDim.x) {
      const sm90::TopKRange range = sm90::top_k_range(args, row + gridDim.x);
      const int mine = chunks_of_warp(part);
      const bool some = is_long(part);
      const int samplers = some ? Sm90TopK::samplers(part) : 0;
      const Sample how = some ? sample_of(part) : Sample{};
      if (warp() < samplers) {
        ptx::mbarrier_wait(landed(), parity);
        sample(how);
      }
      __syncthreads();  // the list has been read, too
      if (thread() == 0) scratch().few = 0;
      const Bound bound = some ? bound_of(how, samplers) : Bound{0, 53};
      const float least = bound.key == 0 ? __uint_as_float(0xff800000u) : simt::top_k_score(bound.key);
      const Part next = part_of(row + gridDim.x, range);
#pragma unroll 1
      for (int i = 0; i < mine; ++i) {
        ptx::mbarrier_wait(landed(), parity);
        parity ^= 1;
        filter(part, i, bound);
        if (i + 1 < mine) fetch(part, i + 1);
      }
      if (chunks_of_warp(next) > 0) fetch(next, 0);
      if (warp() == 0) filter_edge(part, 0, 0, part.first(), bound, least);
      if (warp() == kWarps - 1) filter_edge(part, 1 + static_cast<int>(part.chunks()), part.behind(), part.length, bound, least);
      __syncthreads();
      const int listed = scratch().listed;
      if (part.length != 0 && listed >= args.k && listed <= kList) {
        const Search search = descend(bound, listed);
        if (thread() == 0) scratch().listed = 0;
        choose(part, search, row);
      } else {
        left = true;
        __syncthreads();  // everybody has read the tally
        for (int i = thread(); i < kTopKBins; i += kThreads) bins()[i] = 0;
        if (thread() == 0) {
          scratch().listed = 0;
          args.out[row * args.out_row] = kLeft;
        }
      }
      part = next;
    }
    if (!left) return;
    unsigned* memory = reinterpret_cast<unsigned*>(ring());
    General general{args, memory, reinterpret_cast<int*>(memory + kTopKCandidates), bins(), memory + 2 * kTopKCandidates};
#pragma unroll 1
    for (row = blockIdx.x; row < args.rows; row += gridDim.x) {
      __syncthreads();
      if (thread() == 0) scratch().few = args.out[row * args.out_row] == kLeft;
      __syncthreads();
      if (scratch().few != 0) general.run(row);
    }
  }
};

template <int kThreads, int kPage, int kList, int kSampled>
__device__ void sm90_top_k(const TopKKernel& args) {
  using Block = Sm90TopK<kThreads, kPage, kList, kSampled>;
  if (simt::lane_id() == 0) {
    ptx::mbarrier_init(Block::landed(), 1);
    ptx::fence_mbarrier_init();
  }
  __syncwarp();
  Block{args}.run();
}

}  // namespace fathom
