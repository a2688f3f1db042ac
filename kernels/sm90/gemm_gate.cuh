// What the head gate does to a product on its way out.
#pragma once
#include "layout/gemm.cuh"
#include "ptx/types.cuh"

namespace fathom {

/// Four columns of a token times gate_factor, and times their gates if there are any.
__device__ __forceinline__ float4 gated(const GemmArgs& args, int token, int column, float4 v) {
  if (!args.gated) return v;
  float factor[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    factor[i] = args.gate_factor;
    if (args.gate != nullptr && column + i < args.n) factor[i] *= args.gate[token * args.gate_row + column + i];
  }
  return {v.x * factor[0], v.y * factor[1], v.z * factor[2], v.w * factor[3]};
}

}  // namespace fathom
