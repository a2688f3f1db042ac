// Brings the experts' outputs back to their tokens.
#pragma once
#include "fathom/core/context.hpp"
#include "fathom/core/problem.hpp"
#include "fathom/core/tensor.hpp"

namespace fathom {

struct MoeCombineProblem {
  static constexpr std::string_view op = "moe_combine";
  std::int64_t tokens = 1;
  std::int64_t top_k = 8;
  std::int64_t rows = 8;
  std::int64_t dim = 7168;
  DType y = DType::f32;
  DType out = DType::f32;
  bool accumulate = false;

  template <class V>
  void fields(V& visit) {
    visit("tokens", tokens);
    visit("top_k", top_k);
    visit("rows", rows);
    visit("dim", dim);
    visit("y", y);
    visit("out", out);
    visit("accumulate", accumulate);
  }
  bool operator==(const MoeCombineProblem&) const = default;
};

struct MoeCombineArgs {
  TensorView y;            // [rows, dim]
  TensorView slot_to_row;  // [tokens, top_k]
  TensorView weights;      // [tokens, top_k]
  TensorView out;          // [tokens, dim], written
  bool accumulate = false;
};

/// Weighted sum of every token's expert outputs.
///
///   sum[t, d] = sum over slots s with slot_to_row[t, s] >= 0 of weights[t, s] * y[slot_to_row[t, s], d]
///   out[t, d] = sum[t, d], or out[t, d] + sum[t, d] with accumulate
///
///   y            [rows, dim]      f32 or bf16; the masked layout [groups, max_m, dim] as groups * max_m rows
///   slot_to_row  [tokens, top_k]  i32, as moe_permute writes it
///   weights      [tokens, top_k]  f32
///   out          [tokens, dim]    f32 or bf16
///
/// The sum runs over ascending slots in f32 and starts at zero; a slot of -1 contributes nothing, whatever
/// its weight. Rows that no slot names are not read. Throws InvalidArgument if a shape or dtype differs or a
/// row does not exist (on a device such a row counts as -1).
void moe_combine(const MoeCombineArgs& args, const Context& context);

}  // namespace fathom
