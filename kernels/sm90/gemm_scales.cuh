// Token scales as callers keep them: f32 with any strides, or UE8M0 exponents packed four to a word.
#pragma once
#include "layout/gemm.cuh"
#include "ptx/types.cuh"
#include "simt/elements.cuh"

namespace fathom {

/// Whether four scales of a token are 16 aligned bytes.
__device__ __forceinline__ bool scales_in_fours(const GemmArgs& args) {
  return args.token_scale_kind == GemmScale::plain && args.token_scale_block == 1 && args.token_scale_row % 4 == 0 &&
         args.blocks % 4 == 0 && reinterpret_cast<u64>(args.token_scale) % 16 == 0;
}

/// The scales of k blocks block .. block + 3 of a token, block a multiple of four; zero after the last.
__device__ __forceinline__ float4 token_scales(const GemmArgs& args, int token, int block, bool fours) {
  float4 v = {0, 0, 0, 0};
  if (args.token_scale_kind == GemmScale::packed) {
    const u32 word =
        static_cast<const u32*>(args.token_scale)[token * args.token_scale_row + block / 4 * args.token_scale_block];
    v.x = simt::ue8m0_to_float(word & 0xff);
    if (block + 1 < args.blocks) v.y = simt::ue8m0_to_float(word >> 8 & 0xff);
    if (block + 2 < args.blocks) v.z = simt::ue8m0_to_float(word >> 16 & 0xff);
    if (block + 3 < args.blocks) v.w = simt::ue8m0_to_float(word >> 24);
    return v;
  }
  const float* from =
      static_cast<const float*>(args.token_scale) + token * args.token_scale_row + block * args.token_scale_block;
  if (fours) return *reinterpret_cast<const float4*>(from);
  v.x = from[0];
  if (block + 1 < args.blocks) v.y = from[args.token_scale_block];
  if (block + 2 < args.blocks) v.z = from[2 * args.token_scale_block];
  if (block + 3 < args.blocks) v.w = from[3 * args.token_scale_block];
  return v;
}

}  // namespace fathom
