// Power-of-two scales turned into packed exponents, and back.
#pragma once
#include "fathom/core/context.hpp"
#include "fathom/core/problem.hpp"
#include "fathom/core/tensor.hpp"
#include "fathom/ops/quantization.hpp"

namespace fathom {

struct TransformScaleUe8m0Problem {
  static constexpr std::string_view op = "transform_scale_ue8m0";
  std::int64_t batch = 0;  // 0: one matrix
  std::int64_t mn = 2048;
  std::int64_t groups = 56;
  std::int64_t rows_per_scale = 128;
  bool round_up = false;

  template <class V>
  void fields(V& visit) {
    visit("batch", batch);
    visit("mn", mn);
    visit("groups", groups);
    visit("rows_per_scale", rows_per_scale);
    visit("round_up", round_up);
  }
  bool operator==(const TransformScaleUe8m0Problem&) const = default;
};

struct TransformScaleUe8m0Args {
  TensorView sf;   // [ceil(mn/rows_per_scale), groups] or [batch, ...]
  TensorView out;  // [mn, ceil(groups/4)] or [batch, ...], written
  std::int64_t rows_per_scale = 128;
  bool round_up = false;
};

/// Packs scales for the rows of a GEMM operand: row r takes row r / rows_per_scale of sf.
///
///   byte j of out[r, i] = exponent of sf[r / rows_per_scale, 4 i + j] plus 127; zero for groups that do not
///   exist
///
///   sf   [ceil(mn/rows_per_scale), groups]  f32, any row stride; rows_per_scale is 128 for weight blocks, 1
///   for
///                                           activations
///   out  [mn, ceil(groups/4)]               i32, stride (1, a multiple of 4 >= mn); see scale_view
///
/// or both with a leading batch axis. `out` is a whole tensor: its storage reaches to a multiple of 4 rows,
/// and the padding rows are zeroed. Values must be powers of two in [2^-127, 2^127], or 0, which becomes
/// 2^-127; with round_up every value is taken and rounded up by round_up_to_e8m0 (values quantised with the
/// unrounded scale then carry its error: round before quantising where you can).
///
/// Returns `out` with its aligned column stride, which DLPack drops if there is one column.
/// Throws InvalidArgument if a shape, dtype or stride differs or a value is no power of two.
TensorView transform_scale_ue8m0(const TransformScaleUe8m0Args& args, const Context& context);

/// The inverse, for checks after a reload: packed [mn, ceil(groups/4)] into sf [ceil(mn/rows_per_scale),
/// groups]. Throws InvalidArgument if rows that share a scale differ, naming the first such row.
void unpack_scale_ue8m0(const TensorView& packed, std::int64_t rows_per_scale, const TensorView& sf);

}  // namespace fathom
