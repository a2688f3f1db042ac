// Scaling by one factor: the smallest complete op, and the example of docs/guides/add_an_op.md.
#pragma once
#include "fathom/core/context.hpp"
#include "fathom/core/problem.hpp"
#include "fathom/core/tensor.hpp"

namespace fathom {

// [doc:begin problem]
struct ScaleProblem {
  static constexpr std::string_view op = "scale";
  std::int64_t rows = 1;
  std::int64_t dim = 7168;
  DType dtype = DType::f32;

  template <class V>
  void fields(V& visit) {
    visit("rows", rows);
    visit("dim", dim);
    visit("dtype", dtype);
  }
  bool operator==(const ScaleProblem&) const = default;
};
// [doc:end problem]

// [doc:begin contract]
struct ScaleArgs {
  TensorView x;    // [rows, dim]
  TensorView out;  // [rows, dim], written
  float factor = 1;
};

/// Multiplies every element by one factor.
///
///   out[r, d] = x[r, d] * factor
///
///   x    [rows, dim]  f32 or bf16
///   out  [rows, dim]  as x; may be x itself
///
/// Rows are independent: a row's bytes depend neither on the other rows nor on the thread count.
/// Throws InvalidArgument if a shape or dtype differs or factor is not finite.
void scale(const ScaleArgs& args, const Context& context);
// [doc:end contract]

}  // namespace fathom
