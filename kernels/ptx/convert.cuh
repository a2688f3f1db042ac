// Conversions, and the special function unit.
#pragma once
#include "ptx/types.cuh"

namespace fathom::ptx {

/// Two floats rounded to bf16, the first in the low half.
__device__ __forceinline__ u32 cvt_bf16x2(float low, float high) {
  u32 packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

/// Two floats rounded to e4m3, the first in the low byte; beyond 448 they saturate. From compute capability 8.9 on.
__device__ __forceinline__ u16 cvt_e4m3x2(float low, float high) {
  u16 codes;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(codes) : "f"(high), "f"(low));
  return codes;
}

/// Two e4m3 values as f16, which holds them all; the one of the low byte is in the low half. From compute capability
/// 8.9 on.
__device__ __forceinline__ u32 cvt_f16x2(u16 codes) {
  u32 halves;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(codes));
  return halves;
}

/// Four e4m3 values as f16, the lower two first. One instruction each, where cvt_f16x2() shifts for the upper ones.
__device__ __forceinline__ void cvt_f16x4(u32 codes, u32& low, u32& high) {
  asm("{\n .reg .b16 a, b;\n mov.b32 {a, b}, %2;\n cvt.rn.f16x2.e4m3x2 %0, a;\n cvt.rn.f16x2.e4m3x2 %1, b;\n}"
      : "=r"(low), "=r"(high)
      : "r"(codes));
}

/// Two floats rounded to f16, the first in the low half.
__device__ __forceinline__ u32 cvt_f16x2(float low, float high) {
  u32 packed;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

/// Two f16 values as floats: x is that of the low half.
__device__ __forceinline__ float2 cvt_f32x2(u32 halves) {
  float2 v;
  asm("{\n .reg .f16 a, b;\n mov.b32 {a, b}, %2;\n cvt.f32.f16 %0, a;\n cvt.f32.f16 %1, b;\n}"
      : "=f"(v.x), "=f"(v.y)
      : "r"(halves));
  return v;
}

/// 2^x with a relative error of 2^-22; minus infinity gives 0.
__device__ __forceinline__ float exp2(float x) {
  float value;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(value) : "f"(x));
  return value;
}

/// The logarithm of x to base 2 with an error of 2^-22; 0 gives minus infinity.
__device__ __forceinline__ float log2(float x) {
  float value;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(value) : "f"(x));
  return value;
}

/// 1 / x with a relative error of 2^-23; infinity gives 0.
__device__ __forceinline__ float rcp(float x) {
  float value;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(value) : "f"(x));
  return value;
}

}  // namespace fathom::ptx
