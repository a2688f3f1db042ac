// FP8 linear layer from activations that are not quantised yet.
#pragma once
#include "fathom/core/context.hpp"
#include "fathom/core/problem.hpp"
#include "fathom/core/tensor.hpp"
#include "fathom/ops/quantization.hpp"

namespace fathom {

struct Fp8LinearProblem {
  static constexpr std::string_view op = "fp8_linear";
  std::int64_t m = 1;
  std::int64_t n = 4096;
  std::int64_t k = 7168;
  DType x = DType::bf16;
  QuantRule rule = QuantRule::per_token_group;
  ScaleFormat scale_format = ScaleFormat::f32;
  DType out = DType::bf16;
  bool accumulate = false;
  bool decode = false;  // the class of the call, see fp8_gemm_nt
  bool aligned = true;  // rows of x and w start at multiples of 16 bytes; always true on the host

  template <class V>
  void fields(V& visit) {
    visit("m", m);
    visit("n", n);
    visit("k", k);
    visit("x", x);
    visit("rule", rule);
    visit("scale_format", scale_format);
    visit("out", out);
    visit("accumulate", accumulate);
    visit("decode", decode);
    visit("aligned", aligned);
  }
  bool operator==(const Fp8LinearProblem&) const = default;
};

struct Fp8LinearArgs {
  TensorView x;        // [m, k]
  TensorView w;        // [n, k]
  TensorView w_scale;  // [ceil(n/128), ceil(k/128)]
  TensorView out;      // [m, n], written; with accumulate read and written
  TensorView q;        // [m, k], room for the quantised rows
  TensorView q_scale;  // [m, ceil(k/128)], room for their scales
  QuantRule rule = QuantRule::per_token_group;
  ScaleFormat scale_format = ScaleFormat::f32;
  bool accumulate = false;
  bool decode = false;
};

/// quantize_groups and then fp8_gemm_nt: the same bytes as when these get rows of q that start at multiples
/// of 16 bytes, in one launch where few rows make that worth it.
///
///   out[i, j] = sum_g s[i, g] * w_scale[j / 128, g] * sum_{c in group g} e4m3(x[i, c] / s[i, g]) * w[j, c]
///   with accumulate, that is added to what out holds; s and e4m3(x / s) are those of quantize_groups
///
///   x        [m, k]                      bf16 or f32
///   w        [n, k]                      f8e4m3
///   w_scale  [ceil(n/128), ceil(k/128)]  f32, any strides
///   out      [m, n]                      f32 or bf16; f32 with accumulate
///   q        [m, k]                      f8e4m3
///   q_scale  [m, ceil(k/128)]            f32
///
/// q and q_scale are scratch: an implementation that needs no room for the quantised rows leaves them alone,
/// the others fill them. k is at least 1. Rows of all but w_scale may be further apart than they are long. A
/// row's bytes depend on n, k and the class (`decode`, see fp8_gemm_nt) alone. Throws InvalidArgument if a
/// shape, dtype or stride differs.
void fp8_linear(const Fp8LinearArgs& args, const Context& context);

}  // namespace fathom
