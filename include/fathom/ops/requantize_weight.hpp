// FP8 weights with any scales turned into FP8 weights whose scales are powers of two.
#pragma once
#include "fathom/core/context.hpp"
#include "fathom/core/problem.hpp"
#include "fathom/core/tensor.hpp"
#include "fathom/ops/quantization.hpp"

namespace fathom {

struct RequantizeWeightProblem {
  static constexpr std::string_view op = "requantize_weight";
  std::int64_t experts = 0;  // 0: one matrix
  std::int64_t n = 2048;
  std::int64_t k = 7168;

  template <class V>
  void fields(V& visit) {
    visit("experts", experts);
    visit("n", n);
    visit("k", k);
  }
  bool operator==(const RequantizeWeightProblem&) const = default;
};

struct RequantizeWeightArgs {
  TensorView w;        // [n, k] or [experts, n, k]
  TensorView w_scale;  // [ceil(n/128), ceil(k/128)] or [experts, ...]
  TensorView q;        // as w, written; may be w itself
  TensorView scale;    // as w_scale, written; may be w_scale itself
};

/// Requantises a weight block by block (128 x 128, smaller at the ends):
///
///   v = bf16(w * w_scale),  amax = max(1e-4, max_{block} |v|),  s = the power of two not below amax/448
///   q = e4m3(v / s)
///
///   w, q            [n, k]                       f8e4m3, any row stride
///   w_scale, scale  [ceil(n/128), ceil(k/128)]   f32, any row stride
///
/// or all four with a leading axis of experts. `scale` holds powers of two as f32: transform_scale_ue8m0
/// packs them. Code 0x7f or 0xff (NaN) gives 0x7f. The same bytes from every implementation. Throws
/// InvalidArgument if a shape, dtype or stride differs.
void requantize_weight(const RequantizeWeightArgs& args, const Context& context);

}  // namespace fathom
