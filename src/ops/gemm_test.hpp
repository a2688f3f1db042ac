// What the tests of matrix products share: an oracle in double with a bound for every element, and inputs
// whose rows are further apart than they are long.
#pragma once
#include <algorithm>
#include <cmath>

#include "ops/elements.hpp"
#include "ops/op_test.hpp"

namespace fathom {

struct GemmOracle {
  Tensor expected;  // f32 [m, n]
  Tensor bound;     // f32 [m, n]
};

/// out[i, j] = base(i, j) + sum_k a(i, k) * b(j, k) with a bound that holds for any f32 sum which adds blocks
/// of 128 elements: (128 + blocks + 8) roundings of the sum of magnitudes, and the rounding to `out`.
template <class A, class B, class Base>
GemmOracle gemm_oracle(std::int64_t m, std::int64_t n, std::int64_t k, DType out, A a, B b, Base base) {
  GemmOracle oracle{poisoned(DType::f32, {m, n}), poisoned(DType::f32, {m, n})};
  const double roundings = static_cast<double>(std::min<std::int64_t>(k, 128) + (k + 127) / 128 + 8);
  std::vector<double> row(static_cast<std::size_t>(k));
  std::vector<double> columns(static_cast<std::size_t>(n * k));
  for (std::int64_t j = 0; j < n; ++j) {
    for (std::int64_t i = 0; i < k; ++i) columns[static_cast<std::size_t>(j * k + i)] = b(j, i);
  }
  for (std::int64_t i = 0; i < m; ++i) {
    for (std::int64_t c = 0; c < k; ++c) row[static_cast<std::size_t>(c)] = a(i, c);
    for (std::int64_t j = 0; j < n; ++j) {
      double sum = base(i, j);
      double magnitude = std::abs(sum);
      for (std::int64_t c = 0; c < k; ++c) {
        const double product =
            row[static_cast<std::size_t>(c)] * columns[static_cast<std::size_t>(j * k + c)];
        sum += product;
        magnitude += std::abs(product);
      }
      oracle.expected.set(i * n + j, sum);
      oracle.bound.set(i * n + j, roundings * 0x1p-24 * magnitude + 0x1p-120 +
                                      (out == DType::bf16 ? 0x1p-8 * std::abs(sum) : 0));
    }
  }
  return oracle;
}

/// A normal random matrix inside a wider buffer: `view` has `padding` unused elements (NaN) after every row.
struct Strided {
  Tensor buffer;
  TensorView view;
};
inline Strided strided(const Tensor& values, std::int64_t padding) {
  const std::int64_t rows = values.view().size(0);
  const std::int64_t width = values.view().size(1);
  Strided result{poisoned(values.view().dtype, {rows, width + padding}), {}};
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t j = 0; j < width; ++j)
      result.buffer.set(i * (width + padding) + j, values[i * width + j]);
  }
  result.view = result.buffer.view();
  result.view.shape[1] = width;
  return result;
}

/// The same values with axis 0 contiguous: stride (1, leading).
inline Strided column_major(const Tensor& values, std::int64_t leading) {
  const std::int64_t rows = values.view().size(0);
  const std::int64_t width = values.view().size(1);
  Strided result{poisoned(values.view().dtype, {width, leading}), {}};
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t j = 0; j < width; ++j) result.buffer.set(j * leading + i, values[i * width + j]);
  }
  result.view = result.buffer.view();
  result.view.shape = values.view().shape;
  result.view.stride = {1, leading};
  return result;
}

}  // namespace fathom
