// bf16 matrix product.
#pragma once
#include "fathom/core/context.hpp"
#include "fathom/core/problem.hpp"
#include "fathom/core/tensor.hpp"

namespace fathom {

struct Bf16GemmNtProblem {
  static constexpr std::string_view op = "bf16_gemm_nt";
  std::int64_t m = 1;
  std::int64_t n = 4096;
  std::int64_t k = 7168;
  DType out = DType::bf16;
  bool accumulate = false;
  bool decode = false;  // the class of the call, see Args
  bool aligned = true;  // rows of both operands start at multiples of 16 bytes; always true on the host

  template <class V>
  void fields(V& visit) {
    visit("m", m);
    visit("n", n);
    visit("k", k);
    visit("out", out);
    visit("accumulate", accumulate);
    visit("decode", decode);
    visit("aligned", aligned);
  }
  bool operator==(const Bf16GemmNtProblem&) const = default;
};

struct Bf16GemmNtArgs {
  TensorView a;    // [m, k]
  TensorView b;    // [n, k]
  TensorView out;  // [m, n], written; with accumulate read and written
  bool accumulate = false;
  bool decode = false;  // the forward mode's class on CUDA: how k is cut, see below
};

/// The product of two bf16 matrices, both with k as the last axis.
///
///   out[i, j] = sum_k a[i, k] * b[j, k]         with accumulate, that is added to what out holds
///
///   a    [m, k]  bf16
///   b    [n, k]  bf16
///   out  [m, n]  f32 or bf16; accumulate adds in f32 and rounds once
///
/// Any m, n and k, 0 included; k = 0 gives zeros. Rows may be further apart than they are long. Sums are
/// f32; subnormal bf16 inputs may count as zero. A row's bytes depend neither on the other rows nor on the
/// thread count.
/// On CUDA, `decode` cuts k into as many segments as occupy the device when the weights are few: faster for
/// few rows, and another order of the sum. Within a class a row's bytes depend on n and k alone, not on m.
/// Throws InvalidArgument if a shape, dtype or stride differs.
void bf16_gemm_nt(const Bf16GemmNtArgs& args, const Context& context);

}  // namespace fathom
