// f8e4m3, bf16 and UE8M0: integer arithmetic that every architecture has, and shorter ways where there are such.
#pragma once
#include "ptx/convert.cuh"

namespace fathom::simt {

/// The four bits of exponent and three of mantissa are put where a float has them, so that a power of two
/// repairs the exponent's bias; subnormals come out right by themselves.
__device__ __forceinline__ float f8e4m3_to_float(unsigned char bits) {
  const unsigned magnitude = bits & 0x7fu;
  const float value = magnitude == 0x7fu ? __uint_as_float(0x7fc00000u)
                                         : __uint_as_float(magnitude << 20) * __uint_as_float(247u << 23);
  return bits & 0x80u ? -value : value;
}

__device__ __forceinline__ float bf16_to_float(unsigned short bits) {
  return __uint_as_float(static_cast<unsigned>(bits) << 16);
}

/// Round to nearest even; NaN stays NaN.
__device__ __forceinline__ unsigned short float_to_bf16(float value) {
  const unsigned bits = __float_as_uint(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<unsigned short>((bits >> 16) | 0x40u);
  return static_cast<unsigned short>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

/// 2^(exponent - 127); 0 gives 2^-127, 255 NaN.
__device__ __forceinline__ float ue8m0_to_float(unsigned exponent) {
  return __uint_as_float(exponent == 0 ? 0x00400000u : exponent == 255 ? 0x7fc00000u : exponent << 23);
}

/// The power of two that is not below |x|, kept in [2^-126, 2^127].
__device__ __forceinline__ float ceil_to_ue8m0(float x) {
  const unsigned bits = __float_as_uint(x) & 0x7fffffffu;
  const unsigned exponent = (bits >> 23) + ((bits & 0x7fffffu) != 0 ? 1 : 0);
  return __uint_as_float((exponent < 1 ? 1 : exponent > 254 ? 254 : exponent) << 23);
}

/// Round to nearest even, saturating at +-448; NaN gives 0x7f.
__device__ __forceinline__ unsigned float_to_f8e4m3(float value) {
  const unsigned bits = __float_as_uint(value);
  const unsigned magnitude = bits & 0x7fffffffu;
  const unsigned sign = bits >> 24 & 0x80u;
  if (magnitude > 0x7f800000u) return 0x7f;
  if (magnitude >= 0x43e00000u) return sign | 0x7e;  // 448
  // Below 2^-6 codes are multiples of 2^-9, the last bit of a float at 2^14: the addition rounds.
  if (magnitude < 0x3c800000u) return sign | (__float_as_uint(__uint_as_float(magnitude) + 16384.0f) & 0xfu);
  return sign | (((magnitude + 0x7ffffu + (magnitude >> 20 & 1u)) >> 20) - (120u << 3));
}

/// The codes of two floats, the first in the low byte.
__device__ __forceinline__ unsigned float_to_f8e4m3x2(float low, float high) {
#if __CUDA_ARCH__ >= 890
  return ptx::cvt_e4m3x2(low, high);
#else
  return float_to_f8e4m3(low) | float_to_f8e4m3(high) << 8;
#endif
}

/// Element `index` of f32 or bf16 data.
__device__ __forceinline__ float load_element(const void* data, int bf16, long long index) {
  return bf16 ? bf16_to_float(static_cast<const unsigned short*>(data)[index]) : static_cast<const float*>(data)[index];
}
__device__ __forceinline__ void store_element(void* data, int bf16, long long index, float value) {
  if (bf16) {
    static_cast<unsigned short*>(data)[index] = float_to_bf16(value);
  } else {
    static_cast<float*>(data)[index] = value;
  }
}

/// Four bytes at any address.
__device__ __forceinline__ unsigned load_word(const void* from) {
  if (reinterpret_cast<unsigned long long>(from) % 4 == 0) return *static_cast<const unsigned*>(from);
  const auto* bytes = static_cast<const unsigned char*>(from);
  return bytes[0] | static_cast<unsigned>(bytes[1]) << 8 | static_cast<unsigned>(bytes[2]) << 16 |
         static_cast<unsigned>(bytes[3]) << 24;
}
__device__ __forceinline__ void store_word(void* to, unsigned word) {
  if (reinterpret_cast<unsigned long long>(to) % 4 == 0) {
    *static_cast<unsigned*>(to) = word;
    return;
  }
  auto* bytes = static_cast<unsigned char*>(to);
  for (int i = 0; i < 4; ++i) bytes[i] = static_cast<unsigned char>(word >> 8 * i);
}

}  // namespace fathom::simt
