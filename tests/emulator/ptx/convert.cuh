// The emulator's twin of kernels/ptx/convert.cuh.
#pragma once
#include "ptx/types.cuh"

namespace fathom::ptx {

inline u32 cvt_bf16x2(float low, float high) {
  const auto rounded = [](float value) -> u32 {
    const u32 bits = __float_as_uint(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;  // the NaN of the hardware
    return (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  };
  return rounded(low) | rounded(high) << 16;
}

inline u16 cvt_e4m3x2(float low, float high) {
  const auto rounded = [](float value) -> u32 {
    const u32 sign = __float_as_uint(value) >> 24 & 0x80u;
    const float magnitude = std::fabs(value);
    if (magnitude != magnitude) return 0x7f;
    if (magnitude >= 448) return sign | 0x7e;
    if (magnitude < 0.015625f) return sign | static_cast<u32>(std::lrint(magnitude * 512));
    int exponent = 0;
    const float fraction = std::frexp(magnitude, &exponent);  // of [0.5, 1)
    return sign | static_cast<u32>(std::lrint(fraction * 16) - 8 + 8 * (exponent + 6));
  };
  return static_cast<u16>(rounded(low) | rounded(high) << 8);
}

inline u32 cvt_f16x2(u16 codes) {
  const auto half = [](u32 code) -> u32 {
    const u32 magnitude = code & 0x7f;
    const u32 sign = (code & 0x80) << 8;
    if (magnitude == 0x7f) return 0x7fff;
    if (magnitude >= 8) return sign | ((magnitude << 7) + (8u << 10));
    const float value = static_cast<float>(magnitude) * 0.001953125f;  // subnormal here, normal there
    if (magnitude == 0) return sign;
    const u32 bits = __float_as_uint(value);
    return sign | ((bits >> 23) - 112) << 10 | (bits >> 13 & 0x3ff);
  };
  return half(codes & 0xff) | half(codes >> 8) << 16;
}

inline void cvt_f16x4(u32 codes, u32& low, u32& high) {
  low = cvt_f16x2(static_cast<u16>(codes));
  high = cvt_f16x2(static_cast<u16>(codes >> 16));
}

inline u32 cvt_f16x2(float low, float high) {
  const auto rounded = [](float value) -> u32 {
    const u32 sign = __float_as_uint(value) >> 16 & 0x8000u;
    const float magnitude = std::fabs(value);
    if (magnitude != magnitude) return 0x7fff;
    if (magnitude >= 65520) return sign | 0x7c00;
    if (magnitude < 0x1p-14f) return sign | static_cast<u32>(std::lrint(magnitude * 0x1p24f));
    const u32 bits = __float_as_uint(magnitude);
    return sign | ((bits + 0xfff + (bits >> 13 & 1)) >> 13) - (112u << 10);
  };
  return rounded(low) | rounded(high) << 16;
}

inline float2 cvt_f32x2(u32 halves) {
  const auto value = [](u32 half) -> float {
    const u32 magnitude = half & 0x7fff;
    const float scaled = __uint_as_float(magnitude << 13) * 5.192296858534828e33f;  // 2^112
    const float result = magnitude >= 0x7c00 ? __uint_as_float(magnitude << 13 | 0x7f800000u) : scaled;
    return half & 0x8000 ? -result : result;
  };
  return {value(halves & 0xffff), value(halves >> 16)};
}

inline float exp2(float x) { return ::exp2f(x); }
inline float log2(float x) { return ::log2f(x); }
inline float rcp(float x) { return 1 / x; }

}  // namespace fathom::ptx
