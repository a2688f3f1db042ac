// Stores of results, four columns of a token at a time.
#pragma once
#include "ptx/convert.cuh"
#include "ptx/memory.cuh"
#include "ptx/types.cuh"

namespace fathom {

/// v to columns [column, column + 4) of out, as far as there are; `Args` as GemmArgs: out_data, out_row, n, out_f32,
/// accumulate.
template <class Args>
__device__ __forceinline__ void store_four(const Args& args, int token, int column, float4 v) {
  const int left = args.n - column;
  if (left <= 0) return;
  const i64 at = token * args.out_row + column;
  const bool whole = left >= 4 && args.out_row % 4 == 0 && reinterpret_cast<u64>(args.out_data) % 16 == 0;
  if (args.out_f32) {
    float* out = static_cast<float*>(args.out_data) + at;
    if (whole) {
      float4 base = {0, 0, 0, 0};
      if (args.accumulate) base = *reinterpret_cast<const float4*>(out);
      *reinterpret_cast<float4*>(out) =
          args.accumulate ? float4{v.x + base.x, v.y + base.y, v.z + base.z, v.w + base.w} : v;
      return;
    }
    const float values[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i < left) out[i] = args.accumulate ? values[i] + out[i] : values[i];
    }
  } else {
    u16* out = static_cast<u16*>(args.out_data) + at;
    const u32 words[2] = {ptx::cvt_bf16x2(v.x, v.y), ptx::cvt_bf16x2(v.z, v.w)};
    if (whole) {
      *reinterpret_cast<uint2*>(out) = {words[0], words[1]};
      return;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i < left) out[i] = static_cast<u16>(words[i / 2] >> (16 * (i % 2)));
    }
  }
}

}  // namespace fathom
