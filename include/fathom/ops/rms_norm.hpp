// RMSNorm.
#pragma once
#include "fathom/core/context.hpp"
#include "fathom/core/problem.hpp"
#include "fathom/core/tensor.hpp"

namespace fathom {

struct RmsNormProblem {
  static constexpr std::string_view op = "rms_norm";
  std::int64_t tokens = 1;
  std::int64_t dim = 7168;
  DType x = DType::f32;
  DType weight = DType::bf16;
  DType out = DType::f32;

  template <class V>
  void fields(V& visit) {
    visit("tokens", tokens);
    visit("dim", dim);
    visit("x", x);
    visit("weight", weight);
    visit("out", out);
  }
  bool operator==(const RmsNormProblem&) const = default;
};

struct RmsNormArgs {
  TensorView x;       // [tokens, dim]
  TensorView weight;  // [dim]
  TensorView out;     // [tokens, dim], written
  float epsilon = 1e-6f;
};

/// Root-mean-square normalisation of every row.
///
///   out[t, d] = x[t, d] / sqrt(mean_d(x[t, d]^2) + epsilon) * weight[d]
///
///   x       [tokens, dim]  f32 or bf16
///   weight  [dim]          f32 or bf16
///   out     [tokens, dim]  f32 or bf16; may be x itself if the dtypes agree
///
/// Rows are independent: a row's bytes depend neither on the other rows nor on the thread count.
/// Throws InvalidArgument if a shape or dtype differs or epsilon is not positive.
void rms_norm(const RmsNormArgs& args, const Context& context);

}  // namespace fathom
