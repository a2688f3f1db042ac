// The gated activation of experts, quantised to FP8 in the same pass.
#pragma once
#include <optional>

#include "fathom/core/context.hpp"
#include "fathom/core/problem.hpp"
#include "fathom/core/tensor.hpp"
#include "fathom/ops/quantization.hpp"

namespace fathom {

struct SiluMulQuantProblem {
  static constexpr std::string_view op = "silu_mul_quant";
  std::int64_t experts = 0;  // 0: contiguous
  std::int64_t rows = 1;     // of every expert, if masked
  std::int64_t dim = 2048;
  DType gate_up = DType::bf16;
  ScaleFormat scale_format = ScaleFormat::f32;
  ScaleLayout scale_layout = ScaleLayout::row_major;
  bool swizzled = false;
  bool clamp = false;

  template <class V>
  void fields(V& visit) {
    visit("experts", experts);
    visit("rows", rows);
    visit("dim", dim);
    visit("gate_up", gate_up);
    visit("scale_format", scale_format);
    visit("scale_layout", scale_layout);
    visit("swizzled", swizzled);
    visit("clamp", clamp);
  }
  bool operator==(const SiluMulQuantProblem&) const = default;
};

struct SiluMulQuantArgs {
  TensorView gate_up;   // [rows, 2 * dim] or [experts, rows, 2 * dim]
  TensorView q;         // [rows, dim] or [experts, rows, dim], written
  TensorView scale;     // [rows, ceil(dim/128)] or [experts, rows, ...], written
  TensorView masked_m;  // [experts], if there are experts
  ScaleFormat scale_format = ScaleFormat::f32;
  ScaleLayout scale_layout = ScaleLayout::row_major;
  bool swizzled = false;
  std::optional<float> clamp_limit{};
};

/// silu_mul and quantize_groups with QuantRule::silu_mul in one pass; the product is not rounded in between.
///
///   g = gate_up[r, d],  u = gate_up[r, dim + d];  swizzled: runs of 8, that is g = gate_up[r, 16 c + i] and
///                                                 u = gate_up[r, 16 c + 8 + i] with d = 8 c + i
///   with clamp_limit L: g = min(g, L), u = min(max(u, -L), L), before anything else
///   v = g / (1 + exp(-g)) * u, in f32; per run of 128 outputs (the last may be shorter):
///   s = max(1e-10, max |v|) / 448, ue8m0: rounded up to a power of two; q = e4m3(v * (1/s)), saturating
///
///   gate_up   [rows, 2 * dim]          f32 or bf16 (L is rounded to bf16 then); dim % 8 == 0 if swizzled
///   q         [rows, dim]              f8e4m3
///   scale     [rows, ceil(dim/128)]    f32, or i32 [rows, ceil(dim/512)] if packed; see ScaleLayout
///   masked_m  [experts]                i32, not given for the contiguous form
///
/// With masked_m the first three get a leading axis of experts (any strides on it and on rows), and only rows
/// r < masked_m[e] are read and written: neither values nor scales of the others change. Any number of
/// experts, rows and columns will do. NaN, infinities and zeros behave as in quantize_groups. The same bytes
/// from every implementation, whatever the rows and threads. Throws InvalidArgument if a shape, dtype, stride
/// or masked_m value is wrong (a count on a device is not looked at: it is taken as the nearest that is
/// right), or clamp_limit not positive and finite.
void silu_mul_quant(const SiluMulQuantArgs& args, const Context& context);

}  // namespace fathom
