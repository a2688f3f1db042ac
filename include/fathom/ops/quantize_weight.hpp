// FP8 quantisation of weights in blocks of 128 x 128.
#pragma once
#include "fathom/core/context.hpp"
#include "fathom/core/problem.hpp"
#include "fathom/core/tensor.hpp"
#include "fathom/ops/quantization.hpp"

namespace fathom {

struct QuantizeWeightProblem {
  static constexpr std::string_view op = "quantize_weight";
  std::int64_t experts = 0;  // 0: one matrix
  std::int64_t n = 2048;
  std::int64_t k = 7168;
  DType w = DType::bf16;
  ScaleFormat scale_format = ScaleFormat::f32;

  template <class V>
  void fields(V& visit) {
    visit("experts", experts);
    visit("n", n);
    visit("k", k);
    visit("w", w);
    visit("scale_format", scale_format);
  }
  bool operator==(const QuantizeWeightProblem&) const = default;
};

struct QuantizeWeightArgs {
  TensorView w;      // [n, k] or [experts, n, k]
  TensorView q;      // as w, written
  TensorView scale;  // [ceil(n/128), ceil(k/128)] or [experts, ...], written
  ScaleFormat scale_format = ScaleFormat::f32;
};

/// Quantises a weight in blocks of 128 x 128 (the blocks of the last row and column may be smaller):
///
///   amax = max(1e-4, max_{block} |w|),  s = amax/448 (ue8m0: rounded up to a power of two),  q = e4m3(w *
///   (1/s))
///
///   w      [n, k]                         f32 or bf16, any row stride
///   q      [n, k]                         f8e4m3, to nearest even, saturating at +-448
///   scale  [ceil(n/128), ceil(k/128)]     f32, any row stride
///
/// or all three with a leading axis of experts. NaN, infinities and zeros behave as in quantize_groups. The
/// same bytes from every implementation. Throws InvalidArgument if a shape, dtype or stride differs.
void quantize_weight(const QuantizeWeightArgs& args, const Context& context);

}  // namespace fathom
