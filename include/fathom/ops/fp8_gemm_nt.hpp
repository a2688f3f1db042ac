// FP8 matrix product with scales: activations in groups of 128, weights in blocks or groups of 128.
#pragma once
#include "fathom/core/context.hpp"
#include "fathom/core/problem.hpp"
#include "fathom/core/tensor.hpp"

namespace fathom {

struct Fp8GemmNtProblem {
  static constexpr std::string_view op = "fp8_gemm_nt";
  std::int64_t m = 1;
  std::int64_t n = 4096;
  std::int64_t k = 7168;
  bool packed_a_scale = false;  // a_scale is UE8M0, four to an i32
  bool row_b_scale = false;     // b_scale is 1x128, a row of scales for every row of b
  bool packed_b_scale = false;  // b_scale is UE8M0, four to an i32 (and 1x128)
  DType out = DType::bf16;
  bool accumulate = false;
  bool decode = false;  // the class of the call, see Args
  bool aligned = true;  // rows of both operands start at multiples of 16 bytes; always true on the host

  template <class V>
  void fields(V& visit) {
    visit("m", m);
    visit("n", n);
    visit("k", k);
    visit("packed_a_scale", packed_a_scale);
    visit("row_b_scale", row_b_scale);
    visit("packed_b_scale", packed_b_scale);
    visit("out", out);
    visit("accumulate", accumulate);
    visit("decode", decode);
    visit("aligned", aligned);
  }
  bool operator==(const Fp8GemmNtProblem&) const = default;
};

struct Fp8GemmNtArgs {
  TensorView a;        // [m, k]
  TensorView a_scale;  // [m, groups] or packed [m, ceil(groups/4)]; groups = ceil(k/128)
  TensorView b;        // [n, k]
  TensorView b_scale;  // [ceil(n/128), groups], or [n, groups], or packed [n, ceil(groups/4)]
  TensorView out;      // [m, n], written; with accumulate read and written
  bool accumulate = false;
  bool decode = false;  // the forward mode's class on CUDA: how k is cut, see below
};

/// The product of FP8 activations with FP8 weights, both with a scale for every 128 elements along k.
///
///   out[i, j] = sum_g a_scale[i, g] * b_scale[j / 128, g] * sum_{k in group g} a[i, k] * b[j, k]
///   with accumulate, that is added to what out holds
///
///   a        [m, k]                  f8e4m3
///   a_scale  [m, ceil(k/128)]        f32, any strides (row-major, column-major, aligned column-major), or
///            [m, ceil(k/128/4)]      i32, packed UE8M0: byte j of word i is the exponent of group 4i+j
///   b        [n, k]                  f8e4m3
///   b_scale  [ceil(n/128), ceil(k/128)]  f32 (128x128 blocks), or
///            [n, ceil(k/128)]            f32 (1x128; then b_scale[j, g] in the formula), or
///            [n, ceil(k/128/4)]          i32, packed UE8M0 (1x128)
///   out      [m, n]                  f32 or bf16; f32 with accumulate
///
/// Any m, n and k, 0 included; k = 0 gives zeros. Rows of a, b and out may be further apart than they are
/// long. The order of every sum is fixed by n and k: a row's bytes depend neither on the other rows nor on
/// the thread count.
/// On CUDA, `decode` cuts k into as many segments as occupy the device when the weights are few: faster for
/// few rows, and another order of the sum (1x128 scales of b leave k whole). Within a class a row's bytes
/// depend on n and k alone, not on m. Throws InvalidArgument if a shape, dtype or stride differs.
void fp8_gemm_nt(const Fp8GemmNtArgs& args, const Context& context);

}  // namespace fathom
