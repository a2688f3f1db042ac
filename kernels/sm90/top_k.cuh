// The k largest scores of a row on Hopper, a block a row, or the blocks of a cluster where rows are few.
//
// Every score is read from memory once. The first ones of a block come while a sample of the row gives a bound that the
// k largest very likely pass and not many others; what passes is listed with its position, in any order. The k-th
// largest of the list is found in the shared memory of the cluster's first block, and the chosen positions are marked
// in a bit for each score: from these they are written in ascending order, whatever the order of the list. A row that
// deceives the sample is left to the general kernel's search.
#pragma once
#include "ptx/barrier.cuh"
#include "ptx/memory.cuh"
#include "simt/top_k.cuh"

namespace fathom {

template <int kThreads, int kPage, int kBlocks>
struct Sm90TopK {
  using General = simt::TopK<kThreads, kPage, true>;
  struct Candidate {
    unsigned key;
    int position;
  };
  static constexpr int kAhead = 4;  // loads of four scores under way in a thread; more do not stay in registers

  General general;
  int rank;  // of the block in its cluster

  /// [kTopKCandidates], in the place of the general kernel's keys and positions.
  __device__ Candidate* list() const { return reinterpret_cast<Candidate*>(general.keys); }
  static __device__ TopKScratch& scratch() { return General::scratch(); }

  struct Four {
    float score[4];
  };
  /// Scores first .. first + 3, which lie on 16 bytes; NaN for those outside of [begin, end).
  static __device__ Four load(const float* scores, int first, int begin, int end) {
    const float nan = __uint_as_float(0x7fc00000u);
    Four four{{nan, nan, nan, nan}};
    if (first >= begin && first + 4 <= end) {
      const float4 all = *reinterpret_cast<const float4*>(scores + first);
      four.score[0] = all.x;
      four.score[1] = all.y;
      four.score[2] = all.z;
      four.score[3] = all.w;
    } else {
      for (int i = 0; i < 4; ++i) {
        if (first + i >= begin && first + i < end) four.score[i] = scores[first + i];
      }
    }
    return four;
  }

  /// A score that at least k scores of the row very likely reach, and few others: every block of the cluster finds the
  /// same one.
  __device__ float sampled_bound(const float* scores, int length) {
    const int samples = length <= 1 << 16 ? 1024 : kTopKSample;
    unsigned* keys = general.keys;
    for (int i = static_cast<int>(threadIdx.x); i < samples; i += kThreads) {
      keys[i] = simt::top_k_key(scores[static_cast<long long>(i) * length / samples]);
    }
    __syncthreads();
    const float share = static_cast<float>(general.args.k) * static_cast<float>(samples) / static_cast<float>(length);
    const int wanted = static_cast<int>(share + 4.5f * sqrtf(share)) + 4;
    const unsigned key = general.select(samples, min(wanted, samples), [&](long long i) { return keys[i]; }).key;
    __syncthreads();  // everybody has read the keys: the list takes their place
    return key == 0 ? __uint_as_float(0xff800000u) : simt::top_k_score(key);
  }

  /// Lists the scores that reach the bound. The list is full rather than overrun.
  __device__ void filter(const Four (&scores)[kAhead], int first, float bound) {
    int mine = 0;
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
#pragma unroll
      for (int i = 0; i < 4; ++i) mine += scores[u].score[i] >= bound;
    }
    int sum = mine;
    for (int lanes = 1; lanes < 32; lanes *= 2) {
      const int before = __shfl_up_sync(~0u, sum, lanes);
      if (simt::lane_id() >= lanes) sum += before;
    }
    int at = 0;
    if (simt::lane_id() == 31) at = atomicAdd(scratch().tally, sum);
    at = __shfl_sync(~0u, at, 31) + sum - mine;
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (!(scores[u].score[i] >= bound)) continue;
        if (at < kTopKCandidates) list()[at] = {simt::top_k_key(scores[u].score[i]), first + 4 * u * kThreads + i};
        ++at;
      }
    }
  }

  /// This block's part of the row, [begin, end), into its list.
  __device__ void list_candidates(const float* scores, int length, int begin, int end) {
    if (threadIdx.x == 0) *scratch().tally = 0;
    // The vector that holds `begin` starts up to three scores before it.
    const int base = begin - static_cast<int>(reinterpret_cast<unsigned long long>(scores + begin) / 4 % 4);
    constexpr int kStep = 4 * kAhead * kThreads;
    Four four[kAhead];
    const auto fetch = [&](int first) {
#pragma unroll
      for (int u = 0; u < kAhead; ++u) four[u] = load(scores, first + 4 * u * kThreads, begin, end);
    };
    int first = base + 4 * static_cast<int>(threadIdx.x);
    fetch(first);
    const float bound = sampled_bound(scores, length);  // its barriers stand after the tally's zero, too
    for (int from = base; from < end; from += kStep, first += kStep) {
      if (from != base) fetch(first);
      filter(four, first, bound);
    }
    __syncthreads();
  }

  /// The first block appends what the others have listed. Returns the candidates of the row; -1 where a list did not
  /// hold them.
  __device__ int gather() {
    int total = *scratch().tally;
    if constexpr (kBlocks > 1) {
      ptx::cluster_arrive();
      ptx::cluster_wait();  // all lists are complete
      if (rank == 0) {
        bool fits = total <= kTopKCandidates;
#pragma unroll 1  // or a few registers are spilled
        for (int other = 1; other < kBlocks; ++other) {
          const u32 block = static_cast<u32>(other);
          const int count =
              static_cast<int>(__float_as_uint(ptx::ld_shared_cluster(ptx::mapa(ptx::shared_address(scratch().tally), block)).x));
          fits = fits && count <= kTopKCandidates - total;
          for (int i = 2 * static_cast<int>(threadIdx.x); fits && i < count; i += 2 * kThreads) {
            const float4 two = ptx::ld_shared_cluster(ptx::mapa(ptx::shared_address(list() + i), block));
            list()[total + i] = {__float_as_uint(two.x), static_cast<int>(__float_as_uint(two.y))};
            if (i + 1 < count) list()[total + i + 1] = {__float_as_uint(two.z), static_cast<int>(__float_as_uint(two.w))};
          }
          total += count;
        }
        if (!fits) total = -1;
        __syncthreads();
      }
      ptx::cluster_arrive();
      ptx::cluster_wait();  // the lists have been read
    }
    return total <= kTopKCandidates ? total : -1;
  }

  /// Marks the positions of chosen candidates, and nothing else.
  template <class Chosen>
  __device__ void mark(int words, int count, Chosen chosen) {
    for (int w = static_cast<int>(threadIdx.x); w < words; w += kThreads) general.bits[w] = 0;
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads) {
      const Candidate candidate = list()[i];
      if (chosen(candidate)) atomicOr(&general.bits[candidate.position / 32], 1u << candidate.position % 32);
    }
    __syncthreads();
  }
  /// put(index, position) for the marked positions, which have indices in ascending order.
  template <class Put>
  __device__ void in_order(int words, Put put) {
    const int each = (words + kThreads - 1) / kThreads;
    const int begin = min(static_cast<int>(threadIdx.x) * each, words);
    const int end = min(begin + each, words);
    int mine = 0;
    for (int w = begin; w < end; ++w) mine += __popc(general.bits[w]);
    int total = 0;
    int index = General::scan(mine, total);
    for (int w = begin; w < end; ++w) {
      for (unsigned word = general.bits[w]; word != 0; word &= word - 1) put(index++, 32 * w + __ffs(static_cast<int>(word)) - 1);
    }
    __syncthreads();
  }

  /// One block: the k largest of the list, at least k long.
  __device__ void choose(long long row, int length, int count) {
    int& last_equal = scratch().last_equal;
    const int k = static_cast<int>(general.args.k);
    const int words = (length + 31) / 32;
    const auto threshold = general.select(count, k, [&](long long i) { return list()[i].key; });
    const unsigned key = threshold.key;
    const int wanted = k - threshold.above;
    int mine = 0;
    for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads) mine += list()[i].key == key;
    int equal = 0;
    General::scan(mine, equal);
    if (threadIdx.x == 0) last_equal = length;
    if (equal > wanted) {
      mark(words, count, [&](const Candidate& c) { return c.key == key; });
      in_order(words, [&](int index, int position) {
        if (index == wanted - 1) last_equal = position;
      });
    }
    __syncthreads();
    mark(words, count, [&](const Candidate& c) { return c.key > key || (c.key == key && c.position <= last_equal); });
    int* chosen = reinterpret_cast<int*>(general.keys);
    in_order(words, [&](int index, int position) { chosen[index] = position; });
    const typename General::Writer write{general.args, row};
    for (int i = static_cast<int>(threadIdx.x); i < k; i += kThreads) write(i, chosen[i]);
  }

  /// All threads of the cluster.
  __device__ void run(long long row) {
    long long start;
    const long long whole = general.range(row, start);
    int count = -1;
    if (whole > kTopKCandidates && whole <= kTopKLongestRow) {
      const int length = static_cast<int>(whole);
      const int each = (length + kBlocks - 1) / kBlocks;
      const int begin = min(rank * each, length);
      list_candidates(general.args.scores + row * general.args.scores_row + start, length, begin, min(begin + each, length));
      count = gather();
    }
    if (rank != 0) return;
    if (count >= general.args.k) {
      choose(row, static_cast<int>(whole), count);
    } else {
      general.run(row);
    }
  }
};

template <int kThreads, int kPage, int kBlocks>
__device__ void sm90_top_k(const TopKKernel& args) {
  extern __shared__ int4 top_k_memory[];
  unsigned* memory = reinterpret_cast<unsigned*>(top_k_memory + sizeof(TopKScratch) / sizeof(int4));
  const int rank = kBlocks > 1 ? static_cast<int>(ptx::cluster_rank()) : 0;
  Sm90TopK<kThreads, kPage, kBlocks> block{
      {args, memory, reinterpret_cast<int*>(memory + kTopKCandidates), reinterpret_cast<int*>(memory + 2 * kTopKCandidates),
       memory + 2 * kTopKCandidates + kTopKBins},
      rank};
  for (long long row = blockIdx.x / kBlocks; row < args.rows; row += gridDim.x / kBlocks) {
    block.run(row);
    __syncthreads();
  }
}

}  // namespace fathom
