// The gated activation silu(gate) * up, and the same quantised to FP8 in one pass.
//
// The quantised form gives the bytes of the host with the arithmetic of the special function unit: an estimate of every
// product is within kError of what the fixed sequence of layout/silu.cuh gives. The few products that may decide a
// group's scale, and those whose code the error might change, are computed by the fixed sequence.
#pragma once
#include "layout/silu.cuh"
#include "ptx/convert.cuh"
#include "simt/group_quant.cuh"
#include "simt/scan.cuh"

namespace fathom::simt {

/// Relative error of estimate() against silu(gate) * up, for gates from kLeastGate on and ups below kMostUp: the
/// exponent's product with log2(e) is off by 2^-17 at -80; all else is far smaller.
constexpr float kError = 0x1p-16f;
constexpr float kLeastGate = -80.0f;
constexpr float kMostUp = 0x1p60f;  // above it, the rounding of a subnormal silu would count

__device__ __forceinline__ float estimate(float gate, float up) {
  return gate * ptx::rcp(1.0f + ptx::exp2(gate * -ExpConstants::kLog2E)) * up;
}

/// Where gate and up of output i of a row are, seen from the row's start.
struct GateUpPlace {
  long long gate, up;
};
template <bool kSwizzled>
__device__ __forceinline__ GateUpPlace gate_up_place(long long i, long long dim) {
  if (!kSwizzled) return {i, dim + i};
  const long long gate = i / 8 * 16 + i % 8;
  return {gate, gate + 8};
}

template <bool kClamp>
__device__ __forceinline__ float exact_product(float gate, float up, float limit) {
  if (kClamp) {
    gate = clamp_gate(gate, limit);
    up = clamp_up(up, limit);
  }
  return silu(gate) * up;
}

/// The first n of the 16 gates and ups from output `at` on, then zeros.
template <class T, bool kSwizzled, bool kVector>
__device__ __forceinline__ void load_gate_up(float (&gate)[kQuantEach], float (&up)[kQuantEach], const T* row,
                                             long long at, long long dim, int n) {
  if (!kSwizzled) {
    load_values<T, kVector>(gate, row + at, n);
    load_values<T, kVector>(up, row + dim + at, n);
    return;
  }
  float first[kQuantEach], second[kQuantEach];  // at is a multiple of 16: two runs of 8 gates and 8 ups
  load_values<T, kVector>(first, row + 2 * at, kVector ? n : n < 8 ? 2 * n : 16);
  load_values<T, kVector>(second, row + 2 * at + 16, kVector ? n : n < 8 ? 0 : 2 * n - 16);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    gate[i] = first[i];
    up[i] = first[i + 8];
    gate[i + 8] = second[i];
    up[i + 8] = second[i + 8];
  }
}

/// One group of one row, by a team: load(gate, up) gets the 16 gates and ups of a lane, from output `at` on. All lanes of
/// the warp take part; those of a team without a group have n = 0.
template <class T, bool kSwizzled, bool kClamp, bool kUe8m0, class Load>
__device__ __forceinline__ GroupScale activate_group(const SiluMulQuantKernelArgs& args, const T* row, long long at,
                                                     int n, unsigned (&codes)[kQuantEach / 4], const Load& load) {
  const auto exact = [&](int i) {
    const GateUpPlace place = gate_up_place<kSwizzled>(at + i, args.dim);
    return exact_product<kClamp>(to_float(row[place.gate]), to_float(row[place.up]), args.limit);
  };
  float v[kQuantEach];
  float least_gate = 0, most_up = 0;
  {
    float gate[kQuantEach], up[kQuantEach];
    load(gate, up);
#pragma unroll
    for (int i = 0; i < kQuantEach; ++i) {
      if (kClamp) {
        gate[i] = clamp_gate(gate[i], args.limit);
        up[i] = clamp_up(up[i], args.limit);
      }
      least_gate = fminf(least_gate, gate[i]);
      most_up = fmaxf(most_up, fabsf(up[i]));
      v[i] = estimate(gate[i], up[i]);
    }
  }
  // Estimates that say nothing: every product of this lane is computed.
  bool blind = least_gate < kLeastGate || most_up >= kMostUp;
  if (blind) {
#pragma unroll
    for (int i = 0; i < kQuantEach; ++i) v[i] = 0;
  }
  const float near_amax = team_amax(v);
  blind = blind || !(near_amax < 1e37f);
  // The largest product is among those whose estimates are near the largest one; below the floor it does not matter.
  const float bar = near_amax > 0.9e-10f ? near_amax * (1 - 4 * kError) : 1e38f;
  unsigned open = 0;
#pragma unroll
  for (int i = 0; i < kQuantEach; ++i) open |= (fabsf(v[i]) >= bar) << i;
  if (blind) open = 0xffffu;
  float amax = 0;
  for (open &= (1u << n) - 1; open != 0; open &= open - 1) amax = fmaxf(amax, fabsf(exact(__ffs(open) - 1)));
#pragma unroll
  for (int step = kQuantLanes / 2; step > 0; step /= 2) amax = fmaxf(amax, __shfl_xor_sync(~0u, amax, step));
  const GroupScale group = group_scale<kSiluMul, kUe8m0>(amax);

  const float low = group.factor * (1 - 2 * kError);
  const float high = group.factor * (1 + 2 * kError);
  unsigned different = 0;
#pragma unroll
  for (int i = 0; i < kQuantEach / 4; ++i) {
    const float* x = v + 4 * i;
    codes[i] = float_to_f8e4m3x2(x[0] * low, x[1] * low) | float_to_f8e4m3x2(x[2] * low, x[3] * low) << 16;
    const unsigned upper =
        float_to_f8e4m3x2(x[0] * high, x[1] * high) | float_to_f8e4m3x2(x[2] * high, x[3] * high) << 16;
    // One bit for every byte that differs: neighbouring codes differ in their lowest bit.
    const unsigned bits = (codes[i] ^ upper) & 0x01010101u;
    different |= (bits * 0x01020408u >> 24) << (4 * i);
  }
  if (blind) different = 0xffffu;
  for (different &= (1u << n) - 1; different != 0; different &= different - 1) {
    const int i = __ffs(different) - 1;
    const unsigned code = float_to_f8e4m3x2(exact(i) * group.factor, 0.0f) & 0xffu;
    const int shift = 8 * (i % 4);
#pragma unroll
    for (int w = 0; w < kQuantEach / 4; ++w) {  // an index known to the compiler keeps the words in registers
      if (i / 4 == w) codes[w] = (codes[w] & ~(0xffu << shift)) | code << shift;
    }
  }
  return group;
}

/// Rows of experts `first` to first + kMaskWindow: ends[i] counts those of the experts up to first + i.
__device__ __forceinline__ long long count_rows(const SiluMulQuantKernelArgs& args, long long first,
                                                long long (&ends)[kMaskWindow],
                                                long long (&shared)[kQuantThreads / 32]) {
  constexpr int kEach = kMaskWindow / kQuantThreads;
  long long counts[kEach];
  long long sum = 0;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const long long expert = first + static_cast<int>(threadIdx.x) * kEach + i;
    long long count = expert < args.experts ? args.masked_m[expert * args.masked_m_step] : 0;
    count = count < 0 ? 0 : count > args.rows ? args.rows : count;
    counts[i] = sum += count;
  }
  long long total;
  const long long before = inclusive_sum<kQuantThreads>(sum, shared, total) - sum;
#pragma unroll
  for (int i = 0; i < kEach; ++i) ends[threadIdx.x * kEach + i] = before + counts[i];
  __syncthreads();
  return total;
}

/// The first i with value < ends[i]; `value` is below the last of them.
__device__ __forceinline__ int find_end(const long long (&ends)[kMaskWindow], long long value) {
  int i = 0;
#pragma unroll
  for (int step = kMaskWindow / 2; step > 0; step /= 2) {
    if (ends[i + step - 1] <= value) i += step;
  }
  return i;
}

template <class T, bool kSwizzled, bool kClamp, bool kUe8m0, bool kVector, bool kMasked>
__device__ void silu_mul_quant(const SiluMulQuantKernelArgs& args) {
  __shared__ long long ends[kMasked ? kMaskWindow : 1];
  __shared__ long long shared[kQuantThreads / 32];
  const int lane = static_cast<int>(threadIdx.x) % kQuantLanes;
  const long long groups = args.scale.groups;
  const long long team = static_cast<long long>(blockIdx.x) * kQuantTeams + threadIdx.x / kQuantLanes;
  for (long long window = 0; window < (kMasked ? args.experts : 1); window += kMaskWindow) {
    long long rows = args.rows;
    if constexpr (kMasked) {
      __syncthreads();  // everybody is done with the counts before
      rows = count_rows(args, window, ends, shared);
    }
    const long long total = rows * groups;
    // A warp goes on as long as one of its teams has a group: all of it takes part in the shuffles.
    for (long long item = team; item / 4 * 4 < total; item += static_cast<long long>(gridDim.x) * kQuantTeams) {
      const bool active = item < total;
      const Quotient place = divide(active ? item : 0, groups);
      long long matrix = 0;
      long long row = place.quotient;
      if constexpr (kMasked) {
        const int expert = find_end(ends, row);
        row -= expert > 0 ? ends[expert - 1] : 0;
        matrix = window + expert;
      }
      const int n = active ? lane_elements(args.dim, place.rest, lane) : 0;
      const long long column = place.rest * 128 + lane * kQuantEach;
      const T* gate_up = static_cast<const T*>(args.gate_up) + matrix * args.gate_up_matrix + row * args.gate_up_row;
      unsigned codes[kQuantEach / 4];
      const GroupScale group = activate_group<T, kSwizzled, kClamp, kUe8m0>(
          args, gate_up, column, n, codes, [&](auto& gate, auto& up) {
            load_gate_up<T, kSwizzled, kVector>(gate, up, gate_up, column, args.dim, n);
          });
      auto* q = static_cast<unsigned char*>(args.q) + matrix * args.q_matrix + row * args.q_row;
      store_codes<kVector>(q + column, codes, n);
      if (active && lane == 0) write_scale(args.scale, matrix, row, place.rest, group.scale);
    }
  }
}

/// A thread has 8 neighbouring outputs of a row.
template <class T, class Out, bool kClamp, bool kVector>
__device__ void silu_mul(const SiluMulKernelArgs& args) {
  const long long pieces = (args.dim + kSiluEach - 1) / kSiluEach;
  const long long total = args.rows * pieces;
  for (long long item = static_cast<long long>(blockIdx.x) * kSiluThreads + threadIdx.x; item < total;
       item += static_cast<long long>(gridDim.x) * kSiluThreads) {
    const Quotient place = divide(item, pieces);
    const long long column = place.rest * kSiluEach;
    const long long left = args.dim - column;
    const int n = left < kSiluEach ? static_cast<int>(left) : kSiluEach;
    const T* row = static_cast<const T*>(args.gate_up) + place.quotient * args.gate_up_row;
    float gate[kSiluEach], up[kSiluEach];
    load_values<T, kVector>(gate, row + column, n);
    load_values<T, kVector>(up, row + args.dim + column, n);
#pragma unroll
    for (int i = 0; i < kSiluEach; ++i) gate[i] = exact_product<kClamp>(gate[i], up[i], args.limit);
    store_values<kVector>(static_cast<Out*>(args.out) + place.quotient * args.out_row + column, gate, n);
  }
}

}  // namespace fathom::simt
