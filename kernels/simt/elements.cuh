// f8e4m3, bf16 and UE8M0 as integers: arithmetic that every architecture has.
#pragma once

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

}  // namespace fathom::simt
