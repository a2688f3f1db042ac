// Copies rows between strided tensors: embedding, selection, concatenation, conversion, residual sums.
#pragma once
#include "fathom/core/context.hpp"
#include "fathom/core/problem.hpp"
#include "fathom/core/tensor.hpp"

namespace fathom {

struct CopyRowsProblem {
  static constexpr std::string_view op = "copy_rows";
  std::int64_t tokens = 1;
  std::int64_t heads = 1;
  std::int64_t dim = 7168;
  DType x = DType::f32;
  DType out = DType::f32;
  bool selected = false;
  bool accumulate = false;

  template <class V>
  void fields(V& visit) {
    visit("tokens", tokens);
    visit("heads", heads);
    visit("dim", dim);
    visit("x", x);
    visit("out", out);
    visit("selected", selected);
    visit("accumulate", accumulate);
  }
  bool operator==(const CopyRowsProblem&) const = default;
};

struct CopyRowsArgs {
  TensorView x;     // [rows, dim] or [rows, heads, dim]
  TensorView rows;  // [tokens], optional: 0, 1, 2, ...
  TensorView out;   // [tokens, dim] or [tokens, heads, dim], written
  bool accumulate = false;
};

/// Copies rows, rounding to the dtype of `out`.
///
///   out[t, ...]  = x[rows[t], ...]
///   out[t, ...] += x[rows[t], ...]   with accumulate, which needs an f32 `out`
///
///   x     [rows, dim] or [rows, heads, dim]  f32 or bf16; unit stride in the last axis, any in the others
///   rows  [tokens]                           i32; left out: x has `tokens` rows
///   out   as x with `tokens` rows            f32 or bf16
///
/// x and out may not overlap. Throws InvalidArgument if a shape or dtype differs or rows[t] is no row of x;
/// nothing is written then. On a device, where rows are not looked at, one that is no row of x leaves its
/// token as it was.
void copy_rows(const CopyRowsArgs& args, const Context& context);

}  // namespace fathom
