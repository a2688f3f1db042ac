// Running sums over a warp or a block of threads, of whole numbers: the order does not matter. And the dealing of what
// was counted.
#pragma once

namespace fathom::simt {

/// The sum of `value` over the lanes up to and including this one, `lane`. The whole warp calls it.
template <class T>
__device__ __forceinline__ T warp_inclusive_sum(T value, int lane) {
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const T below = __shfl_up_sync(~0u, value, step);
    if (lane >= step) value += below;
  }
  return value;
}

/// The sum of `value` over the threads up to and including this one; `total` gets the sum over all. Every thread of the
/// block calls it. `shared` has room for a number of every warp, and may be used again after the next __syncthreads().
template <int kThreads, class T>
__device__ __forceinline__ T inclusive_sum(T value, T (&shared)[kThreads / 32], T& total) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  value = warp_inclusive_sum(value, lane);
  if (lane == 31) shared[warp] = value;
  __syncthreads();
  total = 0;
  T before = 0;
#pragma unroll
  for (int w = 0; w < kThreads / 32; ++w) {
    if (w == warp) before = total;
    total += shared[w];
  }
  return before + value;
}

/// This block's of `total` pieces that are dealt to all, [begin, end): the first of the blocks have one more. Lane 0
/// speaks for all, so that the compiler uses uniform registers.
__device__ __forceinline__ void deal(int total, int& begin, int& end) {
  const unsigned all = __shfl_sync(~0u, static_cast<unsigned>(total), 0);
  const unsigned each = all / gridDim.x;
  const unsigned more = all % gridDim.x;
  begin = static_cast<int>(each * blockIdx.x + min(blockIdx.x, more));
  end = static_cast<int>(begin + each + (blockIdx.x < more));
}

}  // namespace fathom::simt
