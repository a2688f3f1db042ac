// Running sums over a block of threads, of whole numbers: the order does not matter.
#pragma once

namespace fathom::simt {

/// The sum of `value` over the threads up to and including this one; `total` gets the sum over all. Every thread of the
/// block calls it. `shared` has room for a number of every warp, and may be used again after the next __syncthreads().
template <int kThreads>
__device__ __forceinline__ long long inclusive_sum(long long value, long long (&shared)[kThreads / 32],
                                                   long long& total) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const long long below = __shfl_up_sync(~0u, value, step);
    if (lane >= step) value += below;
  }
  if (lane == 31) shared[warp] = value;
  __syncthreads();
  total = 0;
  long long before = 0;
#pragma unroll
  for (int w = 0; w < kThreads / 32; ++w) {
    if (w == warp) before = total;
    total += shared[w];
  }
  return before + value;
}

}  // namespace fathom::simt
