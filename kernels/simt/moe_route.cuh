// The router: a warp for every token. The same scores, sums and ties as src/ops/moe_route/moe_route_cpu.cpp.
#pragma once
#include "layout/moe.cuh"
#include "layout/silu.cuh"

namespace fathom::simt {

/// Ascending numbers for ascending floats, above 0; NaN counts as -infinity, -0 as 0.
__device__ __forceinline__ unsigned sortable(float value) {
  if (value != value) value = __uint_as_float(0xff800000u);
  const unsigned bits = __float_as_uint(value + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float from_sortable(unsigned key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

/// The best of what a lane owns of keys[0, count): those at lane + 32 j.
struct Best {
  unsigned key = 0;
  int place = 0;
};
__device__ __forceinline__ Best best_of_lane(const unsigned* keys, int count) {
  Best best;
#pragma unroll 8
  for (int i = static_cast<int>(threadIdx.x) % 32; i < count; i += 32) {
    const unsigned key = keys[i];
    if (key > best.key) best = {key, i};
  }
  return best;
}
/// The place of the largest of keys[0, count), the first of equal ones; it is set to 0. `best` is this lane's.
__device__ __forceinline__ int take_best(unsigned* keys, int count, Best& best) {
  const unsigned most = __reduce_max_sync(~0u, best.key);
  const unsigned own = best.key == most ? static_cast<unsigned>(best.place) : ~0u;
  const int place = static_cast<int>(__reduce_min_sync(~0u, own));
  if (best.key == most && place == best.place) {
    keys[place] = 0;
    best = best_of_lane(keys, count);
  }
  return place;
}

/// Logits and biases to scores and keys: loads of several experts are under way together.
__device__ __forceinline__ void load_experts(const MoeRouteKernelArgs& args, const float* logits, float* scores,
                                             unsigned* keys) {
#pragma unroll 8
  for (int e = static_cast<int>(threadIdx.x) % 32; e < args.experts; e += 32) {
    const float x = __ldg(logits + e);
    const float bias = args.bias != nullptr ? __ldg(args.bias + e) : 0.0f;
    scores[e] = x;
    keys[e] = __float_as_uint(bias);
  }
}

/// Of logits in their place.
template <bool kSoftmax>
__device__ __forceinline__ void scores_of(const MoeRouteKernelArgs& args, float* scores) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float largest = 0;
  float sum = 0;
  if constexpr (kSoftmax) {
    largest = __uint_as_float(0xff800000u);
    for (int e = lane; e < args.experts; e += 32) largest = fmaxf(largest, scores[e]);
    for (int step = 16; step > 0; step /= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, step));
  }
#pragma unroll 4
  for (int e = lane; e < args.experts; e += 32) {
    const float x = scores[e];
    if (x != x) continue;
    const float power = exp_for_sigmoid(kSoftmax ? x - largest : -x);
    scores[e] = kSoftmax ? power : 1.0f / (1.0f + power);
  }
  if constexpr (kSoftmax) {
    for (int e = lane; e < args.experts; e += 32) sum += scores[e];
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
    for (int e = lane; e < args.experts; e += 32) scores[e] = scores[e] / sum;
  }
}

/// The sum of the two best choices of every group.
__device__ __forceinline__ void group_values(const unsigned* keys, int n_group, int size, unsigned* values) {
#pragma unroll 1
  for (int g = static_cast<int>(threadIdx.x) % 32; g < n_group; g += 32) {
    unsigned first = 0, second = 0;
    int at = g % size;  // turned, so that groups fall into different banks
#pragma unroll 8
    for (int i = 0; i < size; ++i) {
      const unsigned key = keys[g * size + at];
      at = at + 1 == size ? 0 : at + 1;
      second = key > first ? first : key > second ? key : second;
      first = key > first ? key : first;
    }
    values[g] = sortable(size == 1 ? from_sortable(first) : from_sortable(first) + from_sortable(second));
  }
}

template <bool kSoftmax>
__device__ void moe_route(const MoeRouteKernelArgs& args, unsigned* shared) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warps = static_cast<int>(blockDim.x) / 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  unsigned* keys = shared + warp * (route_shared_bytes(args.experts, args.n_group, args.top_k) / 4);
  auto* scores = reinterpret_cast<float*>(keys + args.experts);
  unsigned* groups = keys + 2 * args.experts;
  auto* winners = reinterpret_cast<int*>(groups + args.n_group);
  const int size = args.experts / args.n_group;
  for (long long t = static_cast<long long>(blockIdx.x) * warps + warp; t < args.tokens;
       t += static_cast<long long>(gridDim.x) * warps) {
    __syncwarp();  // everybody is done with the token before
    load_experts(args, args.logits + t * args.logits_row, scores, keys);
    scores_of<kSoftmax>(args, scores);
#pragma unroll 4
    for (int e = lane; e < args.experts; e += 32) {
      keys[e] = sortable(args.bias != nullptr ? scores[e] + __uint_as_float(keys[e]) : scores[e]);
    }
    __syncwarp();
    if (args.topk_group < args.n_group) {
      group_values(keys, args.n_group, size, groups);
      __syncwarp();
      Best best = best_of_lane(groups, args.n_group);
#pragma unroll 1
      for (int i = 0; i < args.topk_group; ++i) take_best(groups, args.n_group, best);
      __syncwarp();
#pragma unroll 4
      for (int e = lane; e < args.experts; e += 32) {
        if (groups[e / size] != 0) keys[e] = 0;  // the groups that were taken hold 0
      }
    }
    Best best = best_of_lane(keys, args.experts);
#pragma unroll 1
    for (int s = 0; s < args.top_k; ++s) {
      const int winner = take_best(keys, args.experts, best);
      if (lane == 0) winners[s] = winner;
    }
    __syncwarp();
    float sum = 1e-20f;
#pragma unroll 8
    for (int s = 0; s < args.top_k; ++s) sum += scores[winners[s]];
#pragma unroll 1
    for (int s = lane; s < args.top_k; s += 32) {
      const float score = scores[winners[s]];
      args.ids[t * args.ids_row + s] = winners[s];
      args.weights[t * args.weights_row + s] = (args.renormalize ? score / sum : score) * args.scaling;
    }
  }
}

}  // namespace fathom::simt
