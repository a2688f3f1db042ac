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

/// The largest of keys[0, count), the first of equal ones; it is set to 0. Lane i owns the keys i + 32 j.
__device__ __forceinline__ int take_best(unsigned* keys, int count) {
  unsigned best = 0;
  int place = count;
  for (int i = static_cast<int>(threadIdx.x) % 32; i < count; i += 32) {
    if (keys[i] > best) {
      best = keys[i];
      place = i;
    }
  }
  const unsigned most = __reduce_max_sync(~0u, best);
  place = static_cast<int>(__reduce_min_sync(~0u, best == most ? static_cast<unsigned>(place) : ~0u));
  if (place % 32 == static_cast<int>(threadIdx.x) % 32) keys[place] = 0;
  __syncwarp();
  return place;
}

template <bool kSoftmax>
__device__ __forceinline__ void scores_of(const MoeRouteKernelArgs& args, const float* logits, float* scores) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if constexpr (!kSoftmax) {
    for (int e = lane; e < args.experts; e += 32) {
      const float x = logits[e];
      scores[e] = x != x ? x : 1.0f / (1.0f + exp_for_sigmoid(-x));
    }
    return;
  }
  float largest = __uint_as_float(0xff800000u);
  for (int e = lane; e < args.experts; e += 32) largest = fmaxf(largest, logits[e]);
  for (int step = 16; step > 0; step /= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, step));
  float sum = 0;
  for (int e = lane; e < args.experts; e += 32) {
    const float x = logits[e];
    const float power = x != x ? x : exp_for_sigmoid(x - largest);
    scores[e] = power;
    sum += power;
  }
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
  for (int e = lane; e < args.experts; e += 32) scores[e] = scores[e] / sum;
}

/// The sum of the two best choices of every group.
__device__ __forceinline__ void group_values(const unsigned* keys, int n_group, int size, unsigned* values) {
  for (int g = static_cast<int>(threadIdx.x) % 32; g < n_group; g += 32) {
    unsigned first = 0, second = 0;
    for (int i = 0; i < size; ++i) {
      const unsigned key = keys[g * size + (i + g) % size];  // turned, so that groups fall into different banks
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
    scores_of<kSoftmax>(args, args.logits + t * args.logits_row, scores);
    for (int e = lane; e < args.experts; e += 32) {
      keys[e] = sortable(args.bias != nullptr ? scores[e] + args.bias[e] : scores[e]);
    }
    __syncwarp();
    if (args.topk_group < args.n_group) {
      group_values(keys, args.n_group, size, groups);
      __syncwarp();
      for (int i = 0; i < args.topk_group; ++i) take_best(groups, args.n_group);
      for (int e = lane; e < args.experts; e += 32) {
        if (groups[e / size] != 0) keys[e] = 0;  // the groups that were taken hold 0
      }
    }
    for (int s = 0; s < args.top_k; ++s) {
      const int winner = take_best(keys, args.experts);
      if (lane == 0) winners[s] = winner;
    }
    __syncwarp();
    float sum = 1e-20f;
    for (int s = 0; s < args.top_k; ++s) sum += scores[winners[s]];
    for (int s = lane; s < args.top_k; s += 32) {
      const float score = scores[winners[s]];
      args.ids[t * args.ids_row + s] = winners[s];
      args.weights[t * args.weights_row + s] = (args.renormalize ? score / sum : score) * args.scaling;
    }
  }
}

}  // namespace fathom::simt
