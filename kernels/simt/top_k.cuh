// The k largest scores of a row, a block a row. A sample of the row gives a bound that the k largest very likely
// pass and not many others: one pass over the row marks who does, and the k-th largest of these is found in shared
// memory. Rows that deceive the sample (steps, few values) are searched digit by digit. The result is exact on
// either way, and no order depends on timing.
#pragma once
#include "layout/top_k.cuh"
#include "simt/cache.cuh"
#include "simt/scan.cuh"

namespace fathom::simt {

/// The order of scores as unsigned integers: -0 equals 0, NaN is lowest.
__device__ __forceinline__ unsigned top_k_key(float score) {
  const unsigned bits = __float_as_uint(score + 0.0f);
  const unsigned key = bits ^ (static_cast<unsigned>(static_cast<int>(bits) >> 31) | 0x80000000u);
  return score == score ? key : 0;
}
__device__ __forceinline__ float top_k_score(unsigned key) {
  return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key);
}

/// kPage: tokens of a page; 0 unless the transform is paged. kDynamic: all shared memory is dynamic, from a scratch on.
template <int kThreads, int kPage, bool kDynamic = false>
struct TopK {
  static constexpr int kWarps = kThreads / 32;

  const TopKKernel& args;
  unsigned* keys;  // of the candidates
  int* positions;
  int* bins;
  unsigned* bits;

  __device__ static int warp() { return static_cast<int>(threadIdx.x) / 32; }

  __device__ static TopKScratch& scratch() {
    extern __shared__ int4 top_k_memory[];
    return *reinterpret_cast<TopKScratch*>(top_k_memory);
  }

  /// The sum of the values of the threads before this one.
  __device__ static int scan(int value, int& total) {
    int* sums;
    if constexpr (kDynamic) {
      sums = scratch().sums;
    } else {
      __shared__ int fixed[kWarps];
      sums = fixed;
    }
    const int sum = warp_inclusive_sum(value, lane_id());
    __syncthreads();  // everybody has read sums
    if (lane_id() == 31) sums[warp()] = sum;
    __syncthreads();
    const int mine = lane_id() < kWarps ? sums[lane_id()] : 0;
    total = __reduce_add_sync(0xffffffffu, mine);
    return sum - value + __reduce_add_sync(0xffffffffu, lane_id() < warp() ? mine : 0);
  }

  struct Threshold {
    unsigned key;
    int above;  // keys larger than it
  };
  /// The rank-th largest (from 1) of key_at(0 .. count). Three digits at most, from the first bit in which keys
  /// differ; equal keys and a last key by itself end the search.
  template <class KeyAt>
  __device__ Threshold select(long long count, int rank, KeyAt key_at) {
    if constexpr (kDynamic) {
      TopKScratch& in = scratch();
      return select(count, rank, key_at, in.ones, in.zeros, in.digit, in.above_digit, in.in_digit);
    } else {
      __shared__ unsigned ones, zeros;
      __shared__ int digit, above_digit, in_digit;
      return select(count, rank, key_at, ones, zeros, digit, above_digit, in_digit);
    }
  }
  template <class KeyAt>
  __device__ Threshold select(long long count, int rank, KeyAt key_at, unsigned& ones, unsigned& zeros, int& digit,
                              int& above_digit, int& in_digit) {
    if (threadIdx.x == 0) ones = zeros = 0;
    __syncthreads();
    unsigned set = 0, clear = 0;
    for (long long i = threadIdx.x; i < count; i += kThreads) {
      set |= key_at(i);
      clear |= ~key_at(i);
    }
    set = __reduce_or_sync(0xffffffffu, set);
    clear = __reduce_or_sync(0xffffffffu, clear);
    if (lane_id() == 0) {
      atomicOr(&ones, set);
      atomicOr(&zeros, clear);
    }
    __syncthreads();
    int left = 32 - __clz(static_cast<int>(ones & zeros));  // low bits in which keys differ
    unsigned prefix = left == 32 ? 0 : ones >> left << left;
    int above = 0;
    while (left > 0) {
      const int width = left < 11 ? left : 11;
      const int shift = left - width;
      for (int i = static_cast<int>(threadIdx.x); i < kTopKBins; i += kThreads) bins[i] = 0;
      __syncthreads();
      for (long long i = threadIdx.x; i < count; i += kThreads) {
        const unsigned key = key_at(i);
        if (left == 32 || (key ^ prefix) >> left == 0) atomicAdd(&bins[key >> shift & (1u << width) - 1], 1);
      }
      __syncthreads();
      // Thread t has the bins from the top: the first ones hold the largest keys.
      constexpr int kEach = kTopKBins / kThreads;
      int mine = 0;
      for (int j = 0; j < kEach; ++j) mine += bins[kTopKBins - 1 - (static_cast<int>(threadIdx.x) * kEach + j)];
      int total = 0;
      int before = scan(mine, total);
      for (int j = 0; j < kEach; ++j) {
        const int bin = kTopKBins - 1 - (static_cast<int>(threadIdx.x) * kEach + j);
        if (before < rank - above && rank - above <= before + bins[bin]) {
          digit = bin;
          above_digit = before;
          in_digit = bins[bin];
        }
        before += bins[bin];
      }
      __syncthreads();
      prefix |= static_cast<unsigned>(digit) << shift;
      above += above_digit;
      left = shift;
      const bool alone = in_digit == 1;
      __syncthreads();  // everybody has read the digit
      if (!alone || left == 0) continue;
      for (long long i = threadIdx.x; i < count; i += kThreads) {
        if ((key_at(i) ^ prefix) >> left == 0) ones = key_at(i);
      }
      __syncthreads();
      return {ones, above};
    }
    return {prefix, above};
  }

  /// Writes what the transform makes of selected positions.
  struct Writer {
    const TopKKernel& args;
    long long row;
    __device__ int value(int position) const {
      long long value = position;
      if (args.kind == TopKKind::ragged) value += integer_at(args.offsets, row);
      if constexpr (kPage > 0) {
        const long long request =
            args.requests.data != nullptr ? integer_at(args.requests, row) : row / args.rows_per_request;
        const BlockTable& table = args.block_table;
        const bool there = request >= 0 && request < table.rows && position / kPage < table.pages;
        const int page = there ? table.data[request * table.row + position / kPage * table.step] : -1;
        value = page >= 0 ? static_cast<long long>(page) * kPage + position % kPage : -1;
      }
      return static_cast<int>(value);
    }
    __device__ void operator()(int index, int position) const { args.out[row * args.out_row + index] = value(position); }
  };

  /// Writes, in order, the positions of the elements above the threshold and of the first `ties` that equal it.
  template <class KeyAt, class PositionAt>
  __device__ void emit(long long count, unsigned threshold, int ties, KeyAt key_at, PositionAt position_at,
                       const Writer& write) {
    constexpr int kEach = 8;  // neighbours of one thread
    int written = 0;
    for (long long first = 0; first < count; first += kThreads * kEach) {
      const long long mine = first + static_cast<long long>(threadIdx.x) * kEach;
      unsigned above = 0, equal = 0;
      for (int j = 0; j < kEach; ++j) {
        if (mine + j >= count) break;
        const unsigned key = key_at(mine + j);
        above |= static_cast<unsigned>(key > threshold) << j;
        equal |= static_cast<unsigned>(key == threshold) << j;
      }
      int equals = 0;
      int rank = scan(__popc(equal), equals);
      for (int j = 0; j < kEach; ++j) {
        if ((equal >> j & 1) && rank++ < ties) above |= 1u << j;
      }
      int selected = 0;
      int index = written + scan(__popc(above), selected);
      for (int j = 0; j < kEach; ++j) {
        if (above >> j & 1) write(index++, position_at(mine + j));
      }
      written += selected;
      ties -= equals < ties ? equals : ties;
    }
  }

  /// Marks the scores that reach `bound` in `bits` and lists them. Returns their number, or -1 if the list does not
  /// hold them.
  __device__ int list_candidates(const float* scores, int length, float bound) {
    constexpr int kSlots = 16;  // loads under way in a thread
    for (int base = warp() * 32 * kSlots; base < length; base += kThreads * kSlots) {
      float score[kSlots];
#pragma unroll
      for (int u = 0; u < kSlots; ++u) {
        const int i = base + 32 * u + lane_id();
        score[u] = i < length ? scores[i] : __uint_as_float(0x7fc00000u);
      }
      unsigned word = 0;
#pragma unroll
      for (int u = 0; u < kSlots; ++u) {
        const unsigned reached = __ballot_sync(0xffffffffu, score[u] >= bound);
        if (lane_id() == u) word = reached;
      }
      if (lane_id() < kSlots && base + 32 * lane_id() < length) bits[base / 32 + lane_id()] = word;
    }
    __syncthreads();
    const int words = (length + 31) / 32;
    const int each = (words + kThreads - 1) / kThreads;
    const int begin = static_cast<int>(threadIdx.x) * each < words ? static_cast<int>(threadIdx.x) * each : words;
    const int end = begin + each < words ? begin + each : words;
    int mine = 0;
    for (int w = begin; w < end; ++w) mine += __popc(bits[w]);
    int total = 0;
    int index = scan(mine, total);
    if (total > kTopKCandidates) return -1;
    for (int w = begin; w < end; ++w) {
      for (unsigned word = bits[w]; word != 0; word &= word - 1) positions[index++] = 32 * w + __ffs(static_cast<int>(word)) - 1;
    }
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < total; i += kThreads) keys[i] = top_k_key(scores[positions[i]]);
    __syncthreads();
    return total;
  }

  /// A score that at least k scores of the row very likely reach, and few others.
  __device__ float sampled_bound(const float* scores, int length, int k) {
    for (int i = static_cast<int>(threadIdx.x); i < kTopKSample; i += kThreads) {
      keys[i] = top_k_key(scores[static_cast<long long>(i) * length / kTopKSample]);
    }
    __syncthreads();
    const float share = static_cast<float>(k) * kTopKSample / static_cast<float>(length);
    const int rank = static_cast<int>(share + 4.5f * sqrtf(share)) + 4;
    const unsigned key = select(kTopKSample, rank < kTopKSample ? rank : kTopKSample, [&](long long i) { return keys[i]; }).key;
    __syncthreads();
    return key == 0 ? __uint_as_float(0xff800000u) : top_k_score(key);
  }

  /// The length of a row's range, which ends with the row, and where it starts.
  __device__ long long range(long long row, long long& start) const {
    long long length = integer_at(args.lengths, row);
    start = args.starts.data != nullptr ? integer_at(args.starts, row) : 0;
    if (args.scores == nullptr) {
      length = length < args.k ? length : args.k;
    } else if (start < 0 || start > args.n) {
      length = 0;
    } else if (length > args.n - start) {
      length = args.n - start;
    }
    return length > 0 ? length : 0;
  }

  /// Writes all of a row that has no more than k scores, and -1 behind.
  __device__ void write_all(long long row, long long length) const {
    const Writer write{args, row};
    for (int i = static_cast<int>(threadIdx.x); i < static_cast<int>(args.k); i += kThreads) {
      if (i < length) {
        write(i, i);
      } else {
        args.out[row * args.out_row + i] = -1;
      }
    }
  }

  __device__ void run(long long row) {
    const Writer write{args, row};
    const int k = static_cast<int>(args.k);
    long long start;
    const long long length = range(row, start);
    if (length <= k) {
      write_all(row, length);
      return;
    }
    const float* scores = args.scores + row * args.scores_row + start;
    const auto listed_key = [&](long long i) { return keys[i]; };
    const auto listed_position = [&](long long i) { return positions[i]; };
    const auto row_key = [&](long long i) { return top_k_key(scores[i]); };
    const auto row_position = [](long long i) { return static_cast<int>(i); };
    if (length <= kTopKCandidates) {
      for (int i = static_cast<int>(threadIdx.x); i < length; i += kThreads) keys[i] = row_key(i);
      __syncthreads();
      const Threshold threshold = select(length, k, listed_key);
      emit(length, threshold.key, k - threshold.above, listed_key, row_position, write);
    } else {
      int candidates = -1;
      if (length <= kTopKLongestRow && k <= kTopKCandidates / 2) {
        const float bound = sampled_bound(scores, static_cast<int>(length), k);
        candidates = list_candidates(scores, static_cast<int>(length), bound);
      }
      if (candidates >= k) {
        const Threshold threshold = select(candidates, k, listed_key);
        emit(candidates, threshold.key, k - threshold.above, listed_key, listed_position, write);
      } else {
        const Threshold threshold = select(length, k, row_key);
        emit(length, threshold.key, k - threshold.above, row_key, row_position, write);
      }
    }
  }
};

template <int kThreads, int kPage>
__device__ void top_k(const TopKKernel& args) {
  extern __shared__ unsigned memory[];
  TopK<kThreads, kPage> block{args, memory, reinterpret_cast<int*>(memory + kTopKCandidates),
                       reinterpret_cast<int*>(memory + 2 * kTopKCandidates), memory + 2 * kTopKCandidates + kTopKBins};
  for (long long row = blockIdx.x; row < args.rows; row += gridDim.x) {
    block.run(row);
    __syncthreads();
  }
}

}  // namespace fathom::simt
