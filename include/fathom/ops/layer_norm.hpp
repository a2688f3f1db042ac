// LayerNorm.
#pragma once
#include "fathom/core/context.hpp"
#include "fathom/core/problem.hpp"
#include "fathom/core/tensor.hpp"

namespace fathom {

struct LayerNormProblem {
  static constexpr std::string_view op = "layer_norm";
  std::int64_t tokens = 1;
  std::int64_t dim = 128;
  DType x = DType::f32;
  DType weight = DType::bf16;  // of weight and bias
  DType out = DType::f32;

  template <class V>
  void fields(V& visit) {
    visit("tokens", tokens);
    visit("dim", dim);
    visit("x", x);
    visit("weight", weight);
    visit("out", out);
  }
  bool operator==(const LayerNormProblem&) const = default;
};

struct LayerNormArgs {
  TensorView x;       // [tokens, dim]
  TensorView weight;  // [dim]
  TensorView bias;    // [dim]
  TensorView out;     // [tokens, dim], written
  float epsilon = 1e-6f;
};

/// Layer normalisation of every row.
///
///   out[t, d] = (x[t, d] - mean_t) / sqrt(variance_t + epsilon) * weight[d] + bias[d]
///
///   mean_t and variance_t (biased: divided by dim) run over row t; the variance is the mean of the squared
///   distances from the mean, taken in a second pass, so that a large mean does not cancel it.
///   x       [tokens, dim]  f32 or bf16
///   weight  [dim]          f32 or bf16
///   bias    [dim]          the dtype of weight
///   out     [tokens, dim]  f32 or bf16; may be x itself if the dtypes agree
///
/// Rows are independent: a row's bytes depend neither on the other rows nor on the thread count.
/// Throws InvalidArgument if a shape or dtype differs or epsilon is not positive.
void layer_norm(const LayerNormArgs& args, const Context& context);

}  // namespace fathom
