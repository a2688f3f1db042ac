// Scales of rows as callers keep them: f32 with any strides, or UE8M0 exponents packed four to a word.
#pragma once
#include "layout/gemm.cuh"
#include "ptx/types.cuh"
#include "simt/elements.cuh"

namespace fathom {

/// The scales of an operand that has its own for every row.
struct RowScales {
  const void* data;
  i64 row;    // elements between scales of neighbouring rows
  i64 block;  // elements between scales (packed: words) of neighbouring k blocks
  GemmScale kind;
};
__device__ __forceinline__ RowScales token_row_scales(const GemmArgs& args) {
  return {args.token_scale, args.token_scale_row, args.token_scale_block, args.token_scale_kind};
}
__device__ __forceinline__ RowScales weight_row_scales(const GemmArgs& args) {
  return {args.weight_scale, args.weight_scale_row, args.weight_scale_block, args.weight_scale_kind};
}

/// Whether four scales of a row are 16 aligned bytes.
__device__ __forceinline__ bool in_fours(const RowScales& scales, int blocks) {
  return scales.kind == GemmScale::plain && scales.block == 1 && scales.row % 4 == 0 && blocks % 4 == 0 &&
         reinterpret_cast<u64>(scales.data) % 16 == 0;
}

/// The scales of k blocks block .. block + 3 of a row, block a multiple of four; zero after the last.
__device__ __forceinline__ float4 four_scales(const RowScales& scales, int blocks, int row, int block) {
  float4 v = {0, 0, 0, 0};
  if (scales.kind == GemmScale::packed) {
    const u32 word = static_cast<const u32*>(scales.data)[row * scales.row + block / 4 * scales.block];
    v.x = simt::ue8m0_to_float(word & 0xff);
    if (block + 1 < blocks) v.y = simt::ue8m0_to_float(word >> 8 & 0xff);
    if (block + 2 < blocks) v.z = simt::ue8m0_to_float(word >> 16 & 0xff);
    if (block + 3 < blocks) v.w = simt::ue8m0_to_float(word >> 24);
    return v;
  }
  const float* from = static_cast<const float*>(scales.data) + row * scales.row + block * scales.block;
  v.x = from[0];
  if (block + 1 < blocks) v.y = from[scales.block];
  if (block + 2 < blocks) v.z = from[2 * scales.block];
  if (block + 3 < blocks) v.w = from[3 * scales.block];
  return v;
}

}  // namespace fathom
