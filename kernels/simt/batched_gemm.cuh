// The general matrix product for every group of a batch: bf16 rows by the group's weights in bf16 or f8e4m3.
#pragma once
#include "simt/gemm.cuh"

namespace fathom::simt {

/// Blocks (tile, group).
template <class Weights>
__device__ void batched_gemm(const SimtBatchedGemmArgs& args) {
  __shared__ SharedMemory shared;
  for (long long group = blockIdx.y; group < args.groups; group += gridDim.y) {
    SimtGemmArgs one = args.gemm;
    one.a = static_cast<const Bf16::Bits*>(one.a) + group * args.a_group;
    one.b = static_cast<const typename Weights::Bits*>(one.b) + group * args.b_group;
    one.out = static_cast<unsigned char*>(one.out) + group * args.out_group * (one.out_bf16 ? 2 : 4);
    if (one.b_scale.data != nullptr) {
      one.b_scale.data = static_cast<const float*>(one.b_scale.data) + group * args.b_scale_group;
    }
    for_each_tile(one, [&](long long row, long long column) {
      compute_tile<Bf16, EveryRow, Weights>(one, shared, row, column);
    });
  }
}

}  // namespace fathom::simt
