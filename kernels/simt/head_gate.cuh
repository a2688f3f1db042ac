// The general head gate: any sizes and strides, on architectures from sm_80. A warp has one value of out; a lane adds
// every 32nd product in ascending order, then the lanes are added up in pairs.
#pragma once
#include "layout/head_gate.cuh"
#include "simt/elements.cuh"

namespace fathom::simt {

__device__ __forceinline__ float number(float value) { return value; }
__device__ __forceinline__ float number(unsigned short bits) { return bf16_to_float(bits); }

template <class X, class W>
__device__ void head_gate(const HeadGateKernelArgs& args) {
  constexpr int kWarps = kHeadGateThreads / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const long long first = static_cast<long long>(blockIdx.x) * kWarps + threadIdx.x / 32;
  for (long long item = first; item < args.tokens * args.heads; item += static_cast<long long>(gridDim.x) * kWarps) {
    const long long token = item / args.heads;
    const long long head = item % args.heads;
    const X* x = static_cast<const X*>(args.x) + token * args.x_row;
    const W* w = static_cast<const W*>(args.w) + head * args.w_row;
    float sum = 0;
#pragma unroll 4
    for (long long c = lane; c < args.hidden; c += 32) sum = __fmaf_rn(number(x[c]), number(w[c]), sum);
#pragma unroll
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
    if (lane == 0) {
      const float factor =
          args.q_scale != nullptr ? args.factor * args.q_scale[token * args.q_scale_row + head] : args.factor;
      args.out[token * args.out_row + head] = sum * factor;
    }
  }
}

}  // namespace fathom::simt
