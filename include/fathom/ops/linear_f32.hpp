// f32 linear layer over weights in any storage format.
#pragma once
#include "fathom/core/context.hpp"
#include "fathom/core/problem.hpp"
#include "fathom/core/tensor.hpp"

namespace fathom {

struct LinearF32Problem {
  static constexpr std::string_view op = "linear_f32";
  std::int64_t m = 1;
  std::int64_t n = 4096;
  std::int64_t k = 7168;
  DType w = DType::f8e4m3;
  bool accumulate = false;

  template <class V>
  void fields(V& visit) {
    visit("m", m);
    visit("n", n);
    visit("k", k);
    visit("w", w);
    visit("accumulate", accumulate);
  }
  bool operator==(const LinearF32Problem&) const = default;
};

struct LinearF32Args {
  TensorView x;        // [m, k]
  TensorView w;        // [n, k]
  TensorView w_scale;  // [ceil(n/128), ceil(k/128)], given exactly if w is f8e4m3
  TensorView out;      // [m, n], written; with accumulate read and written
  bool accumulate = false;
};

/// A linear layer with f32 activations; the weights are expanded tile by tile, never as a whole.
///
///   out[i, j] = sum_k x[i, k] * w[j, k] * w_scale[j / 128, k / 128]     (w_scale only with f8e4m3)
///   with accumulate, that is added to what out holds
///
///   x        [m, k]  f32
///   w        [n, k]  f32, bf16 or f8e4m3
///   w_scale  [ceil(n/128), ceil(k/128)]  f32
///   out      [m, n]  f32
///
/// Any m, n and k, 0 included; k = 0 gives zeros. Rows may be further apart than they are long. A row's bytes
/// depend neither on the other rows nor on the thread count. Throws InvalidArgument if a shape, dtype or
/// stride differs.
void linear_f32(const LinearF32Args& args, const Context& context);

}  // namespace fathom
