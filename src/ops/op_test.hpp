// What op tests share: tensors with guard zones, random and poisoned contents, comparisons that report the
// worst place.
#pragma once
#include <gtest/gtest.h>

#include <cstdint>
#include <initializer_list>
#include <random>
#include <string>
#include <vector>

#include "fathom/core/buffer.hpp"
#include "fathom/core/context.hpp"
#include "fathom/core/error.hpp"
#include "fathom/core/problem.hpp"
#include "fathom/core/tensor.hpp"

namespace fathom {

/// An owned contiguous tensor between two guard zones. The destructor fails the test if a guard was
/// overwritten.
class Tensor {
 public:
  Tensor(DType dtype, std::initializer_list<std::int64_t> shape);
  Tensor(Tensor&&) noexcept;
  Tensor& operator=(Tensor&&) = delete;
  ~Tensor();

  const TensorView& view() const { return view_; }
  operator TensorView() const { return view_; }
  std::int64_t count() const { return view_.count(); }
  /// Element i in memory order, as double, for any dtype.
  double operator[](std::int64_t i) const;
  void set(std::int64_t i, double value);
  template <class T>
  T* as() const {
    return view_.as<T>();
  }

 private:
  Buffer buffer_;
  TensorView view_;
};

/// Filled with NaN (float dtypes) or 0x7b bytes (integers): an element that nobody writes is found.
Tensor poisoned(DType dtype, std::initializer_list<std::int64_t> shape);

template <class T>
Tensor tensor_of(DType dtype, std::initializer_list<std::int64_t> shape, const std::vector<T>& values) {
  Tensor tensor(dtype, shape);
  EXPECT_EQ(static_cast<std::size_t>(tensor.count()), values.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    tensor.set(static_cast<std::int64_t>(i), static_cast<double>(values[i]));
  }
  return tensor;
}

/// Random tensors from one seed.
class Random {
 public:
  explicit Random(std::int64_t seed) : engine_(static_cast<std::uint64_t>(seed)) {}
  Tensor normal(DType dtype, std::initializer_list<std::int64_t> shape, double deviation = 1);
  Tensor uniform(DType dtype, std::initializer_list<std::int64_t> shape, double low, double high);
  std::int64_t integer(std::int64_t low, std::int64_t high) {  // both inclusive
    return std::uniform_int_distribution<std::int64_t>(low, high)(engine_);
  }
  std::mt19937_64& engine() { return engine_; }

 private:
  std::mt19937_64 engine_;
};

struct Tolerance {
  double relative = 0;  // of the expected element
  double absolute = 0;
};

/// Every element: |got - expected| <= absolute + relative * |expected|. NaN never passes. Fails, too, if
/// `expected` is all zeros and has more than one element: such a comparison proves nothing.
void expect_close(const TensorView& got, const TensorView& expected, Tolerance tolerance);
/// As expect_close, with a tolerance tensor of the same shape (f32), for bounds that come from the operands.
void expect_within(const TensorView& got, const TensorView& expected, const TensorView& bound);
void expect_same_bytes(const TensorView& got, const TensorView& expected);

/// 1 - 2<x,y> / (<x,x> + <y,y>): the field's global measure of difference.
double calc_diff(const TensorView& x, const TensorView& y);

/// A context with that many threads, kept for the whole test run. The default has two.
const Context& test_context(int threads = 2);
/// A context in which every op that has `implementation` runs it (for example "ref:any").
const Context& forced_context(const std::string& implementation);

#define EXPECT_ERROR(type, text, statement)                                               \
  do {                                                                                    \
    try {                                                                                 \
      statement;                                                                          \
      ADD_FAILURE() << "expected " #type ": " << (text);                                  \
    } catch (const type& error) {                                                         \
      EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what(); \
    }                                                                                     \
  } while (false)

}  // namespace fathom
