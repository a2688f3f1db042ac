// FP8 quantisation of rows in groups of 128.
#pragma once
#include "fathom/core/context.hpp"
#include "fathom/core/problem.hpp"
#include "fathom/core/tensor.hpp"
#include "fathom/ops/quantization.hpp"

namespace fathom {

struct QuantizeGroupsProblem {
  static constexpr std::string_view op = "quantize_groups";
  std::int64_t tokens = 1;
  std::int64_t k = 7168;
  DType x = DType::f32;
  QuantRule rule = QuantRule::per_token_group;
  ScaleFormat scale_format = ScaleFormat::f32;
  ScaleLayout scale_layout = ScaleLayout::row_major;

  template <class V>
  void fields(V& visit) {
    visit("tokens", tokens);
    visit("k", k);
    visit("x", x);
    visit("rule", rule);
    visit("scale_format", scale_format);
    visit("scale_layout", scale_layout);
  }
  bool operator==(const QuantizeGroupsProblem&) const = default;
};

struct QuantizeGroupsArgs {
  TensorView x;      // [tokens, k]
  TensorView q;      // [tokens, k], written
  TensorView scale;  // [tokens, ceil(k/128)] or packed [tokens, ceil(k/512)], written
  QuantRule rule = QuantRule::per_token_group;
  ScaleFormat scale_format = ScaleFormat::f32;
  ScaleLayout scale_layout = ScaleLayout::row_major;
};

/// Quantises every row in groups of 128 (the last group may be shorter), by the rule's floor and formula:
///
///   amax = max(floor, max_{i in group} |x[t, i]|),  s = amax/448 (ue8m0: rounded up to a power of two)
///   q[t, i] = e4m3(x[t, i] / s), to nearest even, saturating at +-448; QuantRule says how x/s is computed
///
///   x      [tokens, k]             f32 or bf16, any row stride
///   q      [tokens, k]             f8e4m3
///   scale  [tokens, ceil(k/128)]   f32, or i32 [tokens, ceil(k/512)] if packed; see ScaleLayout
///
/// Only elements of the views are written: padding between the columns of `scale` keeps its bytes. A NaN in x
/// gives q = 0x7f there and does not count in amax. A group that holds an infinity gets the f32 scale
/// infinity (finite x: q = 0; infinite x: NaN) or the ue8m0 scale 2^127. Groups of zeros give q = 0, never
/// NaN.
///
/// IEEE division and rounding: every implementation gives the same bytes, whatever the rows and threads.
/// Throws InvalidArgument if a shape, dtype or stride differs, or packed_ue8m0 is asked without ue8m0.
void quantize_groups(const QuantizeGroupsArgs& args, const Context& context);

}  // namespace fathom
