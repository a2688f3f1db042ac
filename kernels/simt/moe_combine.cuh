// The weighted sum of every token's expert outputs: a thread has 8 columns of one token.
#pragma once
#include "layout/moe.cuh"
#include "simt/values.cuh"

namespace fathom::simt {

template <class T, class Out, bool kVector>
__device__ void moe_combine(const MoeCombineKernelArgs& args) {
  constexpr int kSlotsAhead = 3;  // rows whose loads are under way together
  const long long pieces = (args.dim + kCombineEach - 1) / kCombineEach;
  for (long long item = static_cast<long long>(blockIdx.x) * kCombineThreads + threadIdx.x;
       item < args.tokens * pieces; item += static_cast<long long>(gridDim.x) * kCombineThreads) {
    const Quotient place = divide(item, pieces);
    const long long column = place.rest * kCombineEach;
    const long long left = args.dim - column;
    const int n = left < kCombineEach ? static_cast<int>(left) : kCombineEach;
    const int* rows = args.slot_to_row + place.quotient * args.slot_to_row_row;
    const float* weights = args.weights + place.quotient * args.weights_row;
    float sum[kCombineEach] = {};
#pragma unroll 1
    for (int first = 0; first < args.top_k; first += kSlotsAhead) {
      constexpr int kLoads = kCombineEach * sizeof(T) / 16;
      int row[kSlotsAhead];
      float weight[kSlotsAhead];
#pragma unroll
      for (int s = 0; s < kSlotsAhead; ++s) {
        row[s] = first + s < args.top_k ? __ldg(rows + first + s) : -1;
        weight[s] = first + s < args.top_k ? __ldg(weights + first + s) : 0.0f;
        if (row[s] >= args.rows) row[s] = -1;
      }
      uint4 bits[kSlotsAhead][kLoads];
      const auto at = [&](int s) { return static_cast<const T*>(args.y) + row[s] * args.y_row + column; };
#pragma unroll
      for (int s = 0; s < kSlotsAhead; ++s) {
#pragma unroll
        for (int i = 0; i < kLoads; ++i) {
          if (kVector && row[s] >= 0) bits[s][i] = __ldg(reinterpret_cast<const uint4*>(at(s)) + i);
        }
      }
#pragma unroll
      for (int s = 0; s < kSlotsAhead; ++s) {
        if (row[s] < 0) continue;
        float y[kCombineEach];
        if (!kVector) load_values<T, false>(y, at(s), n);
#pragma unroll
        for (int i = 0; i < kLoads; ++i) {
          if (kVector) unpack(y, i * 16 / sizeof(T), bits[s][i], T{});
        }
#pragma unroll
        for (int i = 0; i < kCombineEach; ++i) sum[i] = __fmaf_rn(weight[s], y[i], sum[i]);
      }
    }
    auto* out = static_cast<Out*>(args.out) + place.quotient * args.out_row + column;
    if (args.accumulate) {
      float base[kCombineEach];
      load_values<Out, kVector, kCombineEach, /*kConstant=*/false>(base, out, n);
#pragma unroll
      for (int i = 0; i < kCombineEach; ++i) sum[i] = base[i] + sum[i];
    }
    store_values<kVector>(out, sum, n);
  }
}

}  // namespace fathom::simt
