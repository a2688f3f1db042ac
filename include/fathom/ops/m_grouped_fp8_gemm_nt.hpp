// FP8 matrix products of many groups of rows, each with its own weights.
#pragma once
#include <span>

#include "fathom/core/context.hpp"
#include "fathom/ops/grouped.hpp"

namespace fathom {

struct MGroupedFp8GemmNtProblem {
  static constexpr std::string_view op = "m_grouped_fp8_gemm_nt";
  std::int64_t groups = 8;
  std::int64_t rows = 8;  // of all groups; masked: of each group's block (max_m)
  std::int64_t n = 4096;
  std::int64_t k = 7168;
  GroupLayout layout = GroupLayout::offsets;
  bool packed_a_scale = false;  // a_scale is UE8M0, four to an i32
  DType out = DType::f32;
  std::int64_t expected_m = 0;  // as in GroupedRows
  bool aligned = true;  // rows of a and b at multiples of 16 bytes, weights of all groups equally far apart

  template <class V>
  void fields(V& visit) {
    visit("groups", groups);
    visit("rows", rows);
    visit("n", n);
    visit("k", k);
    visit("layout", layout);
    visit("packed_a_scale", packed_a_scale);
    visit("out", out);
    visit("expected_m", expected_m);
    visit("aligned", aligned);
  }
  bool operator==(const MGroupedFp8GemmNtProblem&) const = default;
};

struct MGroupedFp8GemmNtArgs {
  TensorView a;                         // [rows, k]; masked: [groups, max_m, k]
  TensorView a_scale;                   // [rows, ceil(k/128)] or packed; masked: [groups, max_m, ...]
  std::span<const TensorView> b;        // groups of [n, k]
  std::span<const TensorView> b_scale;  // groups of [ceil(n/128), ceil(k/128)]
  GroupedRows rows;
  TensorView out;  // [rows, n]; masked: [groups, max_m, n]; written
};

/// For every row r of group g:
///
///   out[r, j] = sum over blocks c of 128 columns of
///               a_scale[r, c] * b_scale[g][j/128, c] * sum_{i in c} a[r, i] * b[g][j, i]
///
///   a        f8e4m3      unit stride on the last axis, any other strides
///   a_scale  f32         any strides (row- or column-major), or
///            i32         packed UE8M0 [.., ceil(k/512)]: byte j of word c is the exponent of group 4c+j
///   b        f8e4m3      views of single matrices: see split_groups
///   b_scale  f32         unit stride on the last axis
///   out      f32 | bf16  unit stride on the last axis: gate and up can be two halves of one buffer
///
/// Rows without a group, beyond the last offset, or from masked_m[g] on count for nothing and are not
/// written. A row's bytes are those fp8_gemm_nt gives for this row and matrix (on CUDA: in its class
/// prefill), whatever the other rows, the layout and the thread count. On CUDA the fastest kernels want the
/// weights, and their scales, of all groups equally far apart: as split_groups gives them. Throws
/// InvalidArgument if a shape or dtype differs or, on the host, a row names a group that does not exist.
void m_grouped_fp8_gemm_nt(const MGroupedFp8GemmNtArgs& args, const Context& context);

}  // namespace fathom
