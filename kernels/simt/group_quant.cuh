// FP8 quantisation of groups of 128: the arithmetic of src/ops/group_quant.hpp, operation by operation, so that host
// and device give the same bytes.
#pragma once
#include "layout/group_quant.cuh"
#include "simt/values.cuh"

namespace fathom::simt {

/// In the order of QuantRule.
enum Rule { kPerTokenGroup, kSiluMul, kIndexer, kPerTokenCast, kKvCache };

struct GroupScale {
  float scale;   // as it is stored
  float factor;  // what values meet: a divisor for the rule `indexer` with f32 scales
};

template <int kRule, bool kUe8m0>
__device__ __forceinline__ GroupScale group_scale(float amax) {
  constexpr float kFloor = kRule == kKvCache ? 0.0f : kRule == kPerTokenGroup || kRule == kSiluMul ? 1e-10f : 1e-4f;
  if (amax < kFloor) amax = kFloor;
  const float scale = amax / 448.0f;
  if (kUe8m0) {
    const float power = ceil_to_ue8m0(scale);
    return {power, 1.0f / power};
  }
  if (kRule == kPerTokenGroup || kRule == kPerTokenCast) return {scale, 448.0f / amax};
  if (kRule == kIndexer) return {scale, scale};
  const float factor = 1.0f / scale;
  if (factor > __uint_as_float(0x7f7fffffu)) return {0.0f, 0.0f};  // only without a floor
  return {scale, factor};
}

/// x as its code is taken.
template <int kRule, bool kUe8m0>
__device__ __forceinline__ float scaled(float x, const GroupScale& group) {
  return kRule == kIndexer && !kUe8m0 ? x / group.factor : x * group.factor;
}

/// Division by a scale of the rule `indexer`, whose reciprocal is taken once: the sequence that a division of floats is,
/// without its detour for quotients near the ends of the range, which all have the code 0 here.
class Divisor {
 public:
  __device__ explicit Divisor(float scale) {
    const bool finite = scale < __uint_as_float(0x7f800000u);
    const float estimate = ptx::rcp(scale);
    divisor_ = finite ? scale : 0.0f;
    reciprocal_ = finite ? __fmaf_rn(__fmaf_rn(-scale, estimate, 1.0f), estimate, estimate) : 0.0f;
  }
  __device__ __forceinline__ float divide(float x) const {
    const float quotient = x * reciprocal_;
    return __fmaf_rn(__fmaf_rn(-quotient, divisor_, x), reciprocal_, quotient);
  }

 private:
  float divisor_, reciprocal_;
};

/// Of the values of a team, NaN passed over. All lanes of the warp take part.
__device__ __forceinline__ float team_amax(const float (&v)[kQuantEach]) {
  float amax = 0;
#pragma unroll
  for (int i = 0; i < kQuantEach; ++i) amax = fmaxf(amax, fabsf(v[i]));
#pragma unroll
  for (int step = kQuantLanes / 2; step > 0; step /= 2) amax = fmaxf(amax, __shfl_xor_sync(~0u, amax, step));
  return amax;
}

__device__ __forceinline__ void write_scale(const ScaleTarget& to, long long matrix, long long row, long long group,
                                            float scale) {
  const long long line = matrix * to.matrix_stride + row * to.row_stride;
  if (!to.packed) {
    static_cast<float*>(to.data)[line + group * to.column_stride] = scale;
    return;
  }
  auto* word = static_cast<unsigned char*>(to.data) + 4 * (line + group / 4 * to.column_stride);
  word[group % 4] = static_cast<unsigned char>(__float_as_uint(scale) >> 23);
  if (group + 1 == to.groups) {
    for (long long j = to.groups; j % 4 != 0; ++j) word[j % 4] = 0;
  }
}

/// Stores the first n of 16 codes, in words of four. kVector: n is 0 or 16.
template <bool kVector>
__device__ __forceinline__ void store_codes(unsigned char* to, const unsigned (&words)[kQuantEach / 4], int n) {
  if (kVector) {
    if (n > 0) *reinterpret_cast<uint4*>(to) = {words[0], words[1], words[2], words[3]};
    return;
  }
#pragma unroll
  for (int i = 0; i < kQuantEach; ++i) {
    if (i < n) to[i] = static_cast<unsigned char>(words[i / 4] >> (8 * (i % 4)));
  }
}

/// Elements of a row that this lane has in group `group` of k.
__device__ __forceinline__ int lane_elements(long long k, long long group, int lane) {
  const long long left = k - group * 128 - lane * kQuantEach;
  return left <= 0 ? 0 : left < kQuantEach ? static_cast<int>(left) : kQuantEach;
}

/// load_values of one lane, in the form in which quantize_groups passed its tests on a device.
template <class T, bool kVector>
__device__ __forceinline__ void load_lane(float (&v)[kQuantEach], const T* from, int n) {
  if (kVector) {
    constexpr int kPerLoad = 16 / sizeof(T);
    uint4 bits[kQuantEach / kPerLoad];
#pragma unroll
    for (int i = 0; i < kQuantEach / kPerLoad; ++i) {
      bits[i] = n > 0 ? __ldg(reinterpret_cast<const uint4*>(from) + i) : uint4{0, 0, 0, 0};
    }
#pragma unroll
    for (int i = 0; i < kQuantEach / kPerLoad; ++i) unpack(v, i * kPerLoad, bits[i], T{});
    return;
  }
#pragma unroll
  for (int i = 0; i < kQuantEach; ++i) v[i] = i < n ? to_float(from[i]) : 0.0f;
}

template <class T, int kRule, bool kUe8m0, bool kVector>
__device__ void quantize_groups(const QuantizeKernelArgs& args) {
  const int lane = static_cast<int>(threadIdx.x) % kQuantLanes;
  const long long groups = args.scale.groups;
  const long long total = args.rows * groups;
  const long long team = static_cast<long long>(blockIdx.x) * kQuantTeams + threadIdx.x / kQuantLanes;
  // A warp goes on as long as one of its teams has a group: all of it takes part in the shuffles.
  for (long long item = team; item / 4 * 4 < total; item += static_cast<long long>(gridDim.x) * kQuantTeams) {
    const bool active = item < total;
    const Quotient place = divide(active ? item : 0, groups);
    const int n = active ? lane_elements(args.k, place.rest, lane) : 0;
    const long long column = place.rest * 128 + lane * kQuantEach;
    float v[kQuantEach];
    load_lane<T, kVector>(v, static_cast<const T*>(args.x) + place.quotient * args.x_row + column, n);
    const GroupScale group = group_scale<kRule, kUe8m0>(team_amax(v));
    unsigned words[kQuantEach / 4];
#pragma unroll
    for (int i = 0; i < kQuantEach; ++i)
      v[i] = scaled<kRule, kUe8m0>(v[i], group);
#pragma unroll
    for (int i = 0; i < kQuantEach / 4; ++i) {
      words[i] = float_to_f8e4m3x2(v[4 * i], v[4 * i + 1]) | float_to_f8e4m3x2(v[4 * i + 2], v[4 * i + 3]) << 16;
    }
    store_codes<kVector>(static_cast<unsigned char*>(args.q) + place.quotient * args.q_row + column, words, n);
    if (active && lane == 0) write_scale(args.scale, 0, place.quotient, place.rest, group.scale);
  }
}

}  // namespace fathom::simt
