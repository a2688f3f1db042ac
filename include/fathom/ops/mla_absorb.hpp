// Splits kv_b of multi-head latent attention into the two matrices of the absorbed form.
#pragma once
#include "fathom/core/context.hpp"
#include "fathom/core/problem.hpp"
#include "fathom/core/tensor.hpp"

namespace fathom {

struct MlaAbsorbProblem {
  static constexpr std::string_view op = "mla_absorb";
  std::int64_t heads = 128;
  std::int64_t nope = 128;
  std::int64_t value = 128;
  std::int64_t lora = 512;
  DType kv_b = DType::f8e4m3;
  DType out = DType::bf16;

  template <class V>
  void fields(V& visit) {
    visit("heads", heads);
    visit("nope", nope);
    visit("value", value);
    visit("lora", lora);
    visit("kv_b", kv_b);
    visit("out", out);
  }
  bool operator==(const MlaAbsorbProblem&) const = default;
};

struct MlaAbsorbArgs {
  TensorView kv_b;  // [heads * (nope + value), lora]
  TensorView
      kv_b_scale;   // [ceil(heads * (nope + value) / 128), ceil(lora / 128)], given exactly if kv_b is f8e4m3
  TensorView w_uk;  // [heads, lora, nope], written
  TensorView w_uv;  // [heads, value, lora], written; not given with w_uk f8e4m3
  TensorView w_uk_scale{};  // [heads, ceil(lora / 128), nope / 128], written; given exactly if w_uk is f8e4m3
};

/// Once per model, at load.
///
///   w(r, l) = kv_b[r, l] * kv_b_scale[r / 128, l / 128]     (the scale only with f8e4m3)
///   w_uk[h, l, i] = w(h * (nope + value) + i, l)            rounded to the dtype of w_uk
///   w_uv[h, i, l] = w(h * (nope + value) + nope + i, l)
///
///   kv_b        [heads * (nope + value), lora]  f8e4m3, bf16 or f32
///   kv_b_scale  f32
///   w_uk, w_uv  contiguous, both bf16 or both f32
///
/// With w_uk f8e4m3, which needs kv_b f8e4m3 and nope and value multiples of 128, nothing is rounded: codes
/// are transposed and w_uk_scale[h, l / 128, i / 128] is the scale of their block. w_uv is then rows [nope,
/// nope + value) of every head of kv_b, where they lie.
///
/// Throws InvalidArgument if a shape or dtype differs.
void mla_absorb(const MlaAbsorbArgs& args, const Context& context);

}  // namespace fathom
