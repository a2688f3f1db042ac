// Matrix products of f32 activations, for many groups of rows, each with its own weights of any format.
#pragma once
#include <span>

#include "fathom/core/context.hpp"
#include "fathom/ops/grouped.hpp"

namespace fathom {

struct MGroupedLinearF32Problem {
  static constexpr std::string_view op = "m_grouped_linear_f32";
  std::int64_t groups = 8;
  std::int64_t rows = 8;  // of all groups; masked: of each group's block (max_m)
  std::int64_t n = 4096;
  std::int64_t k = 7168;
  GroupLayout layout = GroupLayout::offsets;
  DType b = DType::f8e4m3;

  template <class V>
  void fields(V& visit) {
    visit("groups", groups);
    visit("rows", rows);
    visit("n", n);
    visit("k", k);
    visit("layout", layout);
    visit("b", b);
  }
  bool operator==(const MGroupedLinearF32Problem&) const = default;
};

struct MGroupedLinearF32Args {
  TensorView a;                         // [rows, k]; masked: [groups, max_m, k]
  std::span<const TensorView> b;        // groups of [n, k]
  std::span<const TensorView> b_scale;  // f8e4m3 only: groups of [ceil(n/128), ceil(k/128)]
  GroupedRows rows;
  TensorView out;  // [rows, n]; masked: [groups, max_m, n]; written
};

/// For every row r of group g:
///
///   out[r, j] = sum_i a[r, i] * w[g][j, i],   w = b, or b * b_scale[g][j/128, i/128] for f8e4m3
///
///   a        f32                   unit stride on the last axis, any other strides
///   b        f32 | bf16 | f8e4m3   all groups the same; views of single matrices: see split_groups
///   b_scale  f32                   unit stride on the last axis
///   out      f32                   unit stride on the last axis
///
/// Rows without a group, beyond the last offset, or from masked_m[g] on are neither read nor written. A row's
/// bytes are those linear_f32 gives for this row and matrix, whatever the other rows and the thread count.
/// Throws InvalidArgument if a shape or dtype differs or a row names a group that does not exist.
void m_grouped_linear_f32(const MGroupedLinearF32Args& args, const Context& context);

}  // namespace fathom
