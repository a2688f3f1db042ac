// Brings the rows of every expert together.
#pragma once
#include "fathom/core/context.hpp"
#include "fathom/core/problem.hpp"
#include "fathom/core/tensor.hpp"

namespace fathom {

struct MoePermuteProblem {
  static constexpr std::string_view op = "moe_permute";
  std::int64_t tokens = 1;
  std::int64_t top_k = 8;
  std::int64_t groups = 256;
  std::int64_t dim = 7168;
  std::int64_t scales = 0;     // columns of the scale; 0: no scale
  std::int64_t rows = 8;       // contiguous: rows of the output; masked: rows of one group (max_m)
  std::int64_t alignment = 1;  // of a group's first row; contiguous only
  bool masked = false;
  DType x = DType::f32;

  template <class V>
  void fields(V& visit) {
    visit("tokens", tokens);
    visit("top_k", top_k);
    visit("groups", groups);
    visit("dim", dim);
    visit("scales", scales);
    visit("rows", rows);
    visit("alignment", alignment);
    visit("masked", masked);
    visit("x", x);
  }
  bool operator==(const MoePermuteProblem&) const = default;
};

struct MoePermuteArgs {
  TensorView ids;           // [tokens, top_k]
  TensorView x;             // [tokens, dim]
  TensorView x_scale;       // [tokens, scales], optional
  std::int64_t groups = 0;  // experts that are here
  std::int64_t alignment = 1;
  TensorView out;           // [rows, dim] contiguous, [groups, max_m, dim] masked; written
  TensorView out_scale;     // [rows, scales] or [groups, max_m, scales]; given if x_scale is; written
  TensorView slot_to_row;   // [tokens, top_k], written
  TensorView row_to_group;  // [rows], optional, contiguous only, written
  TensorView offsets;       // [groups+1], optional, contiguous only, written
  TensorView masked_m;      // [groups], required for masked, optional for contiguous, written
};

/// Copies row t of x to one row for every slot of token t whose expert is here, expert by expert. Within an
/// expert rows keep the order of (token, slot): the permutation is stable.
///
///   contiguous (out has two axes): group g begins at offsets[g], a multiple of `alignment`, and its rows
///     follow; rows between its last one and offsets[g+1] are padding. offsets[groups] ends the last group,
///     padding included. row_to_group is -1 for padding and for every row from offsets[groups] on.
///   masked (out has three axes): row r of group g is out[g, r]; rows from masked_m[g] on are padding.
///
///   ids           [tokens, top_k]  i32; -1: this expert is not here
///   x             [tokens, dim]    any dtype; bytes are copied
///   x_scale       [tokens, scales] f32 or i32; any strides
///   slot_to_row   [tokens, top_k]  i32: the slot's row; masked: g * max_m + r; -1 if its id is -1
///   row_to_group  [rows]           i32
///   offsets       [groups+1]       i32; on CUDA at most 8191 groups
///   masked_m      [groups]         i32: how many rows a group has
///
/// Padding rows of out and out_scale are left as they are. Throws InvalidArgument if a shape or dtype
/// differs, an id is not in [-1, groups), or out has too few rows: moe_permute_rows() and moe_masked_rows()
/// say what always suffices. Ids on a device are not looked at before the launch: one that is no group's
/// counts as -1, and a slot whose row does not exist gets slot_to_row -1.
void moe_permute(const MoePermuteArgs& args, const Context& context);

/// Rows that hold any choice of experts in the contiguous layout.
std::int64_t moe_permute_rows(std::int64_t tokens, std::int64_t top_k, std::int64_t groups,
                              std::int64_t alignment);
/// Rows of one group that hold any choice of experts in the masked layout, if no token names an expert twice:
/// the multiple of 256 above `tokens`.
std::int64_t moe_masked_rows(std::int64_t tokens);

}  // namespace fathom
