// The gated activation of an MLP: silu(gate) * up.
#pragma once
#include <optional>

#include "fathom/core/context.hpp"
#include "fathom/core/problem.hpp"
#include "fathom/core/tensor.hpp"

namespace fathom {

struct SiluMulProblem {
  static constexpr std::string_view op = "silu_mul";
  std::int64_t rows = 1;
  std::int64_t dim = 2048;
  DType gate_up = DType::bf16;
  DType out = DType::bf16;
  bool clamp = false;

  template <class V>
  void fields(V& visit) {
    visit("rows", rows);
    visit("dim", dim);
    visit("gate_up", gate_up);
    visit("out", out);
    visit("clamp", clamp);
  }
  bool operator==(const SiluMulProblem&) const = default;
};

struct SiluMulArgs {
  TensorView gate_up;  // [rows, 2 * dim], gate first
  TensorView out;      // [rows, dim], written
  std::optional<float> clamp_limit{};
};

/// The gated activation of every row.
///
///   g = gate_up[r, d],  u = gate_up[r, dim + d]
///   with clamp_limit L, before anything else: g = min(g, L), u = min(max(u, -L), L)
///   out[r, d] = g / (1 + exp(-g)) * u, in f32, rounded once to the dtype of out
///
///   gate_up  [rows, 2 * dim]  f32 or bf16 (L is rounded to bf16 then), any row stride
///   out      [rows, dim]      f32 or bf16, must not overlap gate_up
///
/// The exponential is a fixed sequence of f32 operations, within 2 ulp of the true one: every implementation
/// gives the same bytes, whatever the rows and threads. NaN stays NaN; a gate of -infinity gives NaN.
/// Throws InvalidArgument if a shape or dtype differs, or clamp_limit is not positive and finite.
void silu_mul(const SiluMulArgs& args, const Context& context);

}  // namespace fathom
