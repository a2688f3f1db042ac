// bf16 matrix products of many groups of rows, each with its own weights.
#pragma once
#include <span>

#include "fathom/core/context.hpp"
#include "fathom/ops/grouped.hpp"

namespace fathom {

struct MGroupedBf16GemmNtProblem {
  static constexpr std::string_view op = "m_grouped_bf16_gemm_nt";
  std::int64_t groups = 8;
  std::int64_t rows = 8;  // of all groups; masked: of each group's block (max_m)
  std::int64_t n = 4096;
  std::int64_t k = 7168;
  GroupLayout layout = GroupLayout::offsets;
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
    visit("out", out);
    visit("expected_m", expected_m);
    visit("aligned", aligned);
  }
  bool operator==(const MGroupedBf16GemmNtProblem&) const = default;
};

struct MGroupedBf16GemmNtArgs {
  TensorView a;                   // [rows, k]; masked: [groups, max_m, k]
  std::span<const TensorView> b;  // groups of [n, k]
  GroupedRows rows;
  TensorView out;  // [rows, n]; masked: [groups, max_m, n]; written
};

/// For every row r of group g:
///
///   out[r, j] = sum_i a[r, i] * b[g][j, i]
///
///   a    bf16        unit stride on the last axis, any other strides
///   b    bf16        views of single matrices: see split_groups
///   out  f32 | bf16  unit stride on the last axis
///
/// Rows without a group, beyond the last offset, or from masked_m[g] on count for nothing and are not
/// written. A row's bytes are those bf16_gemm_nt gives for this row and matrix (on CUDA: in its class
/// prefill), whatever the other rows, the layout and the thread count. On CUDA the fastest kernels want the
/// weights of all groups equally far apart: as split_groups gives them. Throws InvalidArgument if a shape or
/// dtype differs or, on the host, a row names a group that does not exist.
void m_grouped_bf16_gemm_nt(const MGroupedBf16GemmNtArgs& args, const Context& context);

}  // namespace fathom
