// The indexer's head gate: how much each index head counts in a token's scores.
#pragma once
#include "fathom/core/context.hpp"
#include "fathom/core/problem.hpp"
#include "fathom/core/tensor.hpp"

namespace fathom {

struct HeadGateProblem {
  static constexpr std::string_view op = "head_gate";
  std::int64_t tokens = 1;
  std::int64_t heads = 64;
  std::int64_t hidden = 7168;
  DType x = DType::bf16;
  DType w = DType::bf16;
  bool q_scale = true;
  bool decode = false;  // the class of the call, see fp8_gemm_nt
  bool aligned = true;  // rows of x and w start at multiples of 16 bytes; always true on the host

  template <class V>
  void fields(V& visit) {
    visit("tokens", tokens);
    visit("heads", heads);
    visit("hidden", hidden);
    visit("x", x);
    visit("w", w);
    visit("q_scale", q_scale);
    visit("decode", decode);
    visit("aligned", aligned);
  }
  bool operator==(const HeadGateProblem&) const = default;
};

struct HeadGateArgs {
  TensorView x;        // [tokens, hidden]
  TensorView w;        // [heads, hidden]
  TensorView q_scale;  // [tokens, heads], optional
  TensorView out;      // [tokens, heads], written
  float softmax_scale = 1;
  bool decode = false;  // the forward mode's class on CUDA
};

/// The weights of the index heads.
///
///   out[t, h] = (sum_c x[t, c] * w[h, c]) * heads^-0.5 * q_scale[t, h] * softmax_scale
///
///   x        [tokens, hidden]  bf16 or f32
///   w        [heads, hidden]   bf16, or f32 where x is f32
///   q_scale  [tokens, heads]   f32, the scales of quantised index queries; not given: 1
///   out      [tokens, heads]   f32
///
/// Rows may be further apart than they are long. A row's bytes depend neither on the other rows nor on the
/// thread count; on CUDA they depend on the class, `decode`, as in fp8_gemm_nt. Throws InvalidArgument if a
/// shape, dtype or stride differs or softmax_scale is not finite.
void head_gate(const HeadGateArgs& args, const Context& context);

}  // namespace fathom
