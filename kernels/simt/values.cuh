// Runs of f32 or bf16 values between memory and registers, in 16 bytes at a time where they lie on such.
#pragma once
#include "simt/elements.cuh"

namespace fathom::simt {

using Bf16Bits = unsigned short;

__device__ __forceinline__ void unpack(float* v, int at, const uint4& bits, float) {
  v[at] = __uint_as_float(bits.x);
  v[at + 1] = __uint_as_float(bits.y);
  v[at + 2] = __uint_as_float(bits.z);
  v[at + 3] = __uint_as_float(bits.w);
}
__device__ __forceinline__ void unpack(float* v, int at, const uint4& bits, Bf16Bits) {
  const unsigned words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    v[at + 2 * i] = __uint_as_float(words[i] << 16);
    v[at + 2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
  }
}
__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(Bf16Bits bits) { return bf16_to_float(bits); }

/// The first n of kCount values from `from` on, then zeros. kVector: in loads of 16 bytes; n is 0 or kCount then.
/// kConstant: nobody writes them while the kernel runs.
template <class T, bool kVector, int kCount, bool kConstant = true>
__device__ __forceinline__ void load_values(float (&v)[kCount], const T* from, int n) {
  if (kVector) {
    constexpr int kPerLoad = 16 / sizeof(T);
    uint4 bits[kCount / kPerLoad];
#pragma unroll
    for (int i = 0; i < kCount / kPerLoad; ++i) {
      bits[i] = uint4{0, 0, 0, 0};
      const uint4* place = reinterpret_cast<const uint4*>(from) + i;
      if (n > 0) bits[i] = kConstant ? __ldg(place) : *place;
    }
#pragma unroll
    for (int i = 0; i < kCount / kPerLoad; ++i) unpack(v, i * kPerLoad, bits[i], T{});
    return;
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) v[i] = i < n ? to_float(from[i]) : 0.0f;
}

/// The first n of 8 values, rounded to the type of `to`. kVector: n is 8.
template <bool kVector>
__device__ __forceinline__ void store_values(float* to, const float (&v)[8], int n) {
  if (kVector) {
    reinterpret_cast<float4*>(to)[0] = {v[0], v[1], v[2], v[3]};
    reinterpret_cast<float4*>(to)[1] = {v[4], v[5], v[6], v[7]};
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    if (i < n) to[i] = v[i];
  }
}
template <bool kVector>
__device__ __forceinline__ void store_values(Bf16Bits* to, const float (&v)[8], int n) {
  unsigned bits[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) bits[i] = float_to_bf16(v[i]);
  if (kVector) {
    *reinterpret_cast<uint4*>(to) = {bits[0] | bits[1] << 16, bits[2] | bits[3] << 16, bits[4] | bits[5] << 16,
                                     bits[6] | bits[7] << 16};
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    if (i < n) to[i] = static_cast<Bf16Bits>(bits[i]);
  }
}

/// a / b and the rest, in 32 bits where they suffice.
struct Quotient {
  long long quotient, rest;
};
__device__ __forceinline__ Quotient divide(long long a, long long b) {
  if ((a | b) >> 32 == 0) {
    const unsigned q = static_cast<unsigned>(a) / static_cast<unsigned>(b);
    return {q, static_cast<unsigned>(a) - q * static_cast<unsigned>(b)};
  }
  return {a / b, a % b};
}

}  // namespace fathom::simt
