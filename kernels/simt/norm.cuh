// RMSNorm and LayerNorm, a block a row. Sums are in the order of the CPU op with 16 lanes (AVX-512): element i
// belongs to lane i % 16, a lane adds its elements in ascending order, and the lanes are added as a tree. So a row
// has the bytes it has there. The chain takes a microsecond for 7168 elements; rows wait for memory, not for it.
#pragma once
#include "layout/rows.cuh"
#include "simt/elements.cuh"

namespace fathom::simt {

constexpr int kNormLanes = 16;
constexpr int kNormChunk = 8192;  // elements of a row in shared memory at a time

/// Continues the sum of one lane with its elements of values[0, count).
template <class Add>
__device__ __forceinline__ float add_lane(float sum, const float* values, int count, int lane, Add add) {
#pragma unroll 8
  for (int i = lane; i < count; i += kNormLanes) sum = add(sum, values[i]);
  return sum;
}
/// The sum of the lanes; the threads below kNormLanes of a warp call it.
__device__ __forceinline__ float add_lanes(float sum) {
  for (int lanes = kNormLanes / 2; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(0xffffu, sum, lanes);
  return sum;
}
struct AddSquare {
  __device__ __forceinline__ float operator()(float sum, float x) const { return __fmaf_rn(x, x, sum); }
};
struct AddValue {
  __device__ __forceinline__ float operator()(float sum, float x) const { return sum + x; }
};
/// What a row is multiplied by, of the sum of its squares.
__device__ __forceinline__ float norm_scale(float squares, long long dim, float epsilon) {
  return 1.0f / sqrtf(squares / static_cast<float>(dim) + epsilon);
}

/// finish(sum) of add(sum, value) over the row; every thread gets it. `chunk` has room for kChunk elements.
template <int kChunk = kNormChunk, class Value, class Add, class Finish>
__device__ float lane_sum(long long dim, float* chunk, Value value, Add add, Finish finish) {
  __shared__ float total;
  float sum = 0;
  for (long long begin = 0; begin < dim; begin += kChunk) {
    const int count = static_cast<int>(dim - begin < kChunk ? dim - begin : kChunk);
    __syncthreads();  // everybody has read what was here
    for (int i = static_cast<int>(threadIdx.x); i < count; i += kRowThreads) chunk[i] = value(begin + i);
    __syncthreads();
    if (threadIdx.x < kNormLanes) sum = add_lane(sum, chunk, count, static_cast<int>(threadIdx.x), add);
  }
  if (threadIdx.x < kNormLanes) {
    sum = add_lanes(sum);
    if (threadIdx.x == 0) total = finish(sum);
  }
  __syncthreads();
  return total;
}

template <bool kLayerNorm>
__device__ void norm(const NormKernel& args) {
  __shared__ float chunk[kNormChunk];
  for (long long row = blockIdx.x; row < args.rows; row += gridDim.x) {
    const auto x = [&](long long i) { return load_element(args.x.data, args.x.bf16, row * args.x.row + i); };
    float mean = 0;
    if constexpr (kLayerNorm) {
      mean = lane_sum(args.dim, chunk, x, AddValue{}, [&](float sum) { return sum / static_cast<float>(args.dim); });
    }
    const auto distance = [&](long long i) { return kLayerNorm ? x(i) - mean : x(i); };
    const float scale = lane_sum(args.dim, chunk, distance, AddSquare{},
                                 [&](float sum) { return norm_scale(sum, args.dim, args.epsilon); });
    for (long long i = threadIdx.x; i < args.dim; i += kRowThreads) {
      const float normal = distance(i) * scale;
      const float weight = load_element(args.weight.data, args.weight.bf16, i);
      const float value =
          kLayerNorm ? __fmaf_rn(normal, weight, load_element(args.bias.data, args.bias.bf16, i)) : normal * weight;
      store_element(args.out.data, args.out.bf16, row * args.out.row + i, value);
    }
    __syncthreads();  // out may be x: nobody is still reading this row
  }
}

__device__ inline void rms_norm(const NormKernel& args) { norm<false>(args); }
__device__ inline void layer_norm(const NormKernel& args) { norm<true>(args); }

}  // namespace fathom::simt
