// The weighted sum of every token's expert outputs: a thread has 8 columns of one token.
#pragma once
#include "layout/moe.cuh"
#include "simt/values.cuh"

namespace fathom::simt {

template <class T, class Out, bool kVector>
__device__ void moe_combine(const MoeCombineKernelArgs& args) {
  constexpr int kSlotsAhead = 4;  // rows whose loads are under way together
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
    for (int first = 0; first < args.top_k; first += kSlotsAhead) {
      float y[kSlotsAhead][kCombineEach];
      bool there[kSlotsAhead];
#pragma unroll
      for (int s = 0; s < kSlotsAhead; ++s) {
        const int row = first + s < args.top_k ? rows[first + s] : -1;
        there[s] = row >= 0 && row < args.rows;
        load_values<T, kVector>(y[s], static_cast<const T*>(args.y) + (there[s] ? row * args.y_row + column : 0),
                                there[s] ? n : 0);
      }
#pragma unroll
      for (int s = 0; s < kSlotsAhead; ++s) {
        if (!there[s]) continue;
        const float weight = weights[first + s];
#pragma unroll
        for (int i = 0; i < kCombineEach; ++i) sum[i] = __fmaf_rn(weight, y[s][i], sum[i]);
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
