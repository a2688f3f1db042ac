// What Hopper's top-k kernels ask: where a row's range and a block's part of it lie, and sums over the threads of a block.
#pragma once
#include "simt/top_k.cuh"

namespace fathom::sm90 {

struct TopKRange {
  int start, length;
};
/// The range of a row as the arguments have it: none beyond the rows.
__device__ __forceinline__ TopKRange top_k_range(const TopKKernel& args, unsigned row) {
  TopKRange range{0, 0};
  if (row < args.rows && args.scores != nullptr) {
    range.length = __ldg(static_cast<const int*>(args.lengths.data) + row * args.lengths.step);
    if (args.starts.data != nullptr) range.start = __ldg(static_cast<const int*>(args.starts.data) + row * args.starts.step);
  }
  return range;
}
/// Its length, which ends with the row; 0 if it is nothing to search in a list of candidates.
__device__ __forceinline__ unsigned top_k_length(const TopKKernel& args, TopKRange range) {
  const unsigned n = static_cast<unsigned>(args.n);
  const unsigned start = static_cast<unsigned>(range.start);
  unsigned length = static_cast<unsigned>(max(range.length, 0));
  length = start > n ? 0 : min(length, n - start);
  return length <= static_cast<unsigned>(args.k) || length > kTopKLongestRow ? 0 : length;
}

/// A block's part of a row: [begin, first) and what is left behind `units` of 16 bytes from there on one by one.
struct TopKPart {
  const float* scores;  // of the row
  unsigned length;      // of the row; 0 if it is none for this search
  unsigned begin, first, units, end;
};
/// That of block `rank` of those that share the row.
template <int kBlocks>
__device__ __forceinline__ TopKPart top_k_part(const TopKKernel& args, unsigned row, TopKRange range, int rank) {
  TopKPart part;
  part.length = top_k_length(args, range);
  part.scores = args.scores + row * args.scores_row + static_cast<unsigned>(range.start);
  const unsigned each = (part.length + kBlocks - 1) / kBlocks;
  part.begin = min(static_cast<unsigned>(rank) * each, part.length);
  part.end = min(part.begin + each, part.length);
  const unsigned edge = -(static_cast<unsigned>(reinterpret_cast<unsigned long long>(part.scores)) / 4 + part.begin) % 4;
  part.first = min(part.begin + edge, part.end);
  part.units = (part.end - part.first) / 4;
  return part;
}

/// The sum of the values of the threads before this one. A barrier lies between two calls.
template <int kThreads>
__device__ __forceinline__ int sum_before(int value, int& total, int (&sums)[32]) {
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int sum = simt::warp_inclusive_sum(value, simt::lane_id());
  if (simt::lane_id() == 31) sums[warp] = sum;
  __syncthreads();
  const int mine = simt::lane_id() < kThreads / 32 ? sums[simt::lane_id()] : 0;
  total = __reduce_add_sync(~0u, mine);
  return sum - value + __reduce_add_sync(~0u, simt::lane_id() < warp ? mine : 0);
}

}  // namespace fathom::sm90
