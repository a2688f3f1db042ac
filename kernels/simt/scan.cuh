// Running sums over a warp or a block of threads, of whole numbers: the order does not matter.
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

}  // namespace fathom::simt
