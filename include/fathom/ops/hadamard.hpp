// The Walsh-Hadamard rotation of rows.
#pragma once
#include "fathom/core/context.hpp"
#include "fathom/core/problem.hpp"
#include "fathom/core/tensor.hpp"

namespace fathom {

struct HadamardProblem {
  static constexpr std::string_view op = "hadamard";
  std::int64_t rows = 1;
  std::int64_t dim = 128;
  DType x = DType::f32;
  DType out = DType::f32;

  template <class V>
  void fields(V& visit) {
    visit("rows", rows);
    visit("dim", dim);
    visit("x", x);
    visit("out", out);
  }
  bool operator==(const HadamardProblem&) const = default;
};

struct HadamardArgs {
  TensorView x;    // [rows, dim]
  TensorView out;  // [rows, dim], written
};

/// Multiplies every row by the orthonormal Walsh-Hadamard matrix (natural order).
///
///   out[r, i] = dim^-0.5 * sum_j (-1)^popcount(i & j) * x[r, j]
///
///   x    [rows, dim]  f32 or bf16; dim is a power of two, on CUDA at most 16384
///   out  [rows, dim]  f32 or bf16; may be x itself if the dtypes agree
///
/// The matrix is its own inverse and keeps dot products: rotating queries and keys alike changes no score.
/// Sums are f32 butterflies of distance 1, 2, 4, ...: a row's bytes depend neither on the other rows nor on
/// the threads. Throws InvalidArgument if a shape or dtype differs or dim is not a power of two.
void hadamard(const HadamardArgs& args, const Context& context);

}  // namespace fathom
