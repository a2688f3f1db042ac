// Matrix products on CUDA tensors against the references on host copies: every implementation that takes the
// problem.
#include <bit>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>

#include "fathom/ops/bf16_gemm_nt.hpp"
#include "fathom/ops/fp8_gemm_nt.hpp"
#include "fathom/ops/linear_bf16_fp32.hpp"
#include "on_device.hpp"
#include "ops/gemm_scales.hpp"

namespace fathom {
namespace {

// Of the sum of the magnitudes of all products. cuda:simt adds in f32, 128 products after each other and then
// the groups; tensor cores keep fewer bits of an FP8 product's sum.
double sum_error(const std::string& implementation, std::int64_t k) {
  if (implementation != "cuda:simt") return 0x1p-12;
  return static_cast<double>(std::min<std::int64_t>(k, 128) + (k + 127) / 128 + 8) * 0x1p-24;
}

// out[i, j] = base[i, j] + sum a(i, c) * b(j, c), and the same sum of magnitudes, in double and on all cores.
struct Product {
  Tensor expected;
  Tensor magnitude;
};
template <class A, class B>
Product exact_product(std::int64_t m, std::int64_t n, std::int64_t k, const Tensor* base, A a, B b) {
  std::vector<double> rows(static_cast<std::size_t>(m * k));
  std::vector<double> columns(static_cast<std::size_t>(n * k));
  on_slices(m * k, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) rows[static_cast<std::size_t>(i)] = a(i / k, i % k);
  });
  on_slices(n * k, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) columns[static_cast<std::size_t>(i)] = b(i / k, i % k);
  });
  Product product{poisoned(DType::f32, {m, n}), poisoned(DType::f32, {m, n})};
  on_slices(m * n, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) {
      const double* x = rows.data() + i / n * k;
      const double* y = columns.data() + i % n * k;
      double sum = base != nullptr ? (*base)[i] : 0;
      double magnitude = std::abs(sum);
      for (std::int64_t c = 0; c < k; ++c) {
        sum += x[c] * y[c];
        magnitude += std::abs(x[c] * y[c]);
      }
      product.expected.set(i, sum);
      product.magnitude.set(i, magnitude);
    }
  });
  return product;
}

// |got - expected| <= 2^-8 |expected| (bf16) + error * sum |a b|, where `magnitude` holds that sum.
void expect_product(const TensorView& got, const Tensor& expected, const Tensor& magnitude, double error) {
  Tensor bound(DType::f32, {got.size(0), got.size(1)});
  for (std::int64_t i = 0; i < bound.count(); ++i) {
    bound.set(
        i, error * magnitude[i] + (got.dtype == DType::bf16 ? 0x1p-8 * std::abs(expected[i]) : 0) + 0x1p-120);
  }
  expect_within(got, expected, bound);
}

// Between the rows, everything is as it was.
void expect_padding(const Strided& after, const Strided& before) {
  const std::int64_t width = before.view.size(1);
  TensorView rest_after = after.buffer.view();
  TensorView rest_before = before.buffer.view();
  for (TensorView* rest : {&rest_after, &rest_before}) {
    rest->data = rest->as<std::byte>() + width * size_of(rest->dtype);
    rest->shape[1] -= width;
  }
  expect_same_bytes(rest_after, rest_before);
}

// The result of a product over k elements: within the bound, exactly base or zero where k is 0, and nothing
// between the rows.
void expect_result(const Strided& got, const Strided& before, std::int64_t k, bool accumulate,
                   const Tensor& base, const Product& product, double error) {
  if (k > 0) expect_product(got.view, product.expected, product.magnitude, error);
  const std::int64_t n = got.view.size(1);
  for (std::int64_t i = 0; k == 0 && i < got.view.size(0); ++i) {
    for (std::int64_t j = 0; j < n; ++j) {
      EXPECT_EQ(at(got.view, i, j), accumulate ? static_cast<float>(base[i * n + j]) : 0.0f);
    }
  }
  expect_padding(got, before);
}

enum class Layout { rows, columns, aligned_columns };
constexpr Layout kLayouts[] = {Layout::rows, Layout::columns, Layout::aligned_columns};

// Random operands of one FP8 problem with strides and layouts of `random`'s choice.
struct Fp8Operands {
  Fp8Operands(const Fp8GemmNtProblem& p, std::int64_t seed, std::int64_t padding, Layout layout)
      : random(seed),
        a_values(random.normal(DType::f8e4m3, {p.m, p.k}, 60)),
        b_values(random.normal(DType::f8e4m3, {p.n, p.k}, 60)),
        a(strided(a_values, padding)),
        b(strided(b_values, padding)),
        a_scale(scales(p.m, p.k, p.packed_a_scale, layout)),
        b_scale(scales(p.row_b_scale || p.packed_b_scale ? p.n : scale_groups(p.n), p.k, p.packed_b_scale,
                       layout)) {}

  Strided scales(std::int64_t rows, std::int64_t k, bool packed, Layout layout) {
    Tensor values = packed ? Tensor(DType::i32, {rows, (scale_groups(k) + 3) / 4})
                           : random.uniform(DType::f32, {rows, scale_groups(k)}, 1e-3, 2e-2);
    if (packed) {
      for (std::int64_t i = 0; i < values.count() * 4; ++i) {
        values.as<std::uint8_t>()[i] = static_cast<std::uint8_t>(random.integer(110, 128));
      }
    }
    if (layout == Layout::rows) return strided(values, 1);
    return column_major(values,
                        layout == Layout::columns ? std::max<std::int64_t>(rows, 1) : (rows + 4) / 4 * 4);
  }

  Random random;
  Tensor a_values;
  Tensor b_values;
  Strided a;
  Strided b;
  Strided a_scale;
  Strided b_scale;
};

// False if the implementation declines the problem.
bool runs(const std::function<void()>& body) {
  try {
    body();
    return true;
  } catch (const NoImplementation&) {
    return false;
  }
}

bool check_fp8(Fp8GemmNtProblem p, const std::string& implementation, std::int64_t seed) {
  p.row_b_scale = p.row_b_scale || p.packed_b_scale;
  SCOPED_TRACE(problem_string(p) + " " + implementation + " seed " + std::to_string(seed));
  Random random(seed);
  const bool any = implementation == "cuda:simt";  // the others want rows at multiples of 16 bytes
  const std::int64_t padding =
      random.integer(0, 1) * random.integer(1, 3) * (any && random.integer(0, 1) ? 1 : 16);
  Fp8Operands operands(p, seed, padding, kLayouts[random.integer(0, 2)]);
  const Tensor base = operands.random.normal(DType::f32, {p.m, p.n});
  const Tensor nan = poisoned(p.out, {p.m, p.n});
  const Strided before = strided(p.accumulate ? base : nan, 1 + random.integer(0, 7));
  const std::int64_t shift = any ? random.integer(0, 1) * random.integer(0, 16) : 0;
  const OnDevice a(operands.a, shift);
  const OnDevice b(operands.b, shift);
  const OnDevice a_scale(operands.a_scale);
  const OnDevice b_scale(operands.b_scale);
  const OnDevice out(before);
  if (!runs([&] {
        fp8_gemm_nt({.a = a,
                     .a_scale = a_scale,
                     .b = b,
                     .b_scale = b_scale,
                     .out = out,
                     .accumulate = p.accumulate,
                     .decode = p.decode},
                    device_context(implementation));
      })) {
    return false;
  }
  const Strided got = out.download();
  const std::int64_t block = p.row_b_scale ? 1 : kScaleGroup;
  const Product product = exact_product(
      p.m, p.n, p.k, p.accumulate ? &base : nullptr,
      [&](std::int64_t i, std::int64_t c) {
        return static_cast<double>(at(operands.a_values, i, c)) *
               static_cast<double>(scale_at(operands.a_scale.view, i, c / kScaleGroup));
      },
      [&](std::int64_t j, std::int64_t c) {
        return static_cast<double>(at(operands.b_values, j, c)) *
               static_cast<double>(scale_at(operands.b_scale.view, j / block, c / kScaleGroup));
      });
  // Where one group of 128 is all that counts, so does all of its rounding: 1.15 x 2^-12 has been seen for k
  // = 128, 1.43 x 2^-12 with exponents far apart.
  const double one_group = p.k <= 128 || p.packed_a_scale || p.packed_b_scale ? 2 : 1;
  expect_result(got, before, p.k, p.accumulate, base, product, one_group * sum_error(implementation, p.k));
  return true;
}

bool check_bf16(const Bf16GemmNtProblem& p, const std::string& implementation, std::int64_t seed) {
  SCOPED_TRACE(problem_string(p) + " " + implementation + " seed " + std::to_string(seed));
  Random random(seed);
  const bool any = implementation == "cuda:simt";
  const std::int64_t padding =
      random.integer(0, 1) * random.integer(1, 3) * (any && random.integer(0, 1) ? 1 : 8);
  const Tensor a_values = random.normal(DType::bf16, {p.m, p.k});
  const Tensor b_values = random.normal(DType::bf16, {p.n, p.k});
  const Tensor base = random.normal(p.out, {p.m, p.n});
  const Tensor nan = poisoned(p.out, {p.m, p.n});
  const Strided before = strided(p.accumulate ? base : nan, 1 + random.integer(0, 7));
  const OnDevice a(strided(a_values, padding), any ? random.integer(0, 1) * 2 * random.integer(0, 8) : 0);
  const OnDevice b(strided(b_values, padding));
  const OnDevice out(before);
  if (!runs([&] {
        bf16_gemm_nt({.a = a, .b = b, .out = out, .accumulate = p.accumulate, .decode = p.decode},
                     device_context(implementation));
      })) {
    return false;
  }
  const Strided got = out.download();
  const Product product = exact_product(
      p.m, p.n, p.k, p.accumulate ? &base : nullptr,
      [&](std::int64_t i, std::int64_t c) { return static_cast<double>(at(a_values, i, c)); },
      [&](std::int64_t j, std::int64_t c) { return static_cast<double>(at(b_values, j, c)); });
  expect_result(got, before, p.k, p.accumulate, base, product, sum_error(implementation, p.k));
  return true;
}

Fp8GemmNtProblem random_fp8(Random& random, bool any) {
  const bool accumulate = random.integer(0, 3) == 0;
  const bool aligned = random.integer(0, 1) == 1;
  return {.m = random.integer(1, 150),
          .n = aligned ? 64 * random.integer(1, 4) : random.integer(1, 300),
          .k = aligned ? 128 * random.integer(1, 8)
               : any   ? random.integer(1, 900)
                       : 16 * random.integer(1, 56),
          .packed_a_scale = random.integer(0, 2) == 0,
          .row_b_scale = random.integer(0, 2) == 0,
          .packed_b_scale = random.integer(0, 3) == 0,
          .out = accumulate || random.integer(0, 1) == 1 ? DType::f32 : DType::bf16,
          .accumulate = accumulate,
          .decode = random.integer(0, 1) == 1};
}

TEST(Fp8GemmOnDevice, RandomProblems) {
  for (const std::string& implementation : cuda_implementations("fp8_gemm_nt")) {
    Random random(std::random_device{}());
    int ran = 0;
    for (int i = 0; i < 60; ++i)
      ran += check_fp8(random_fp8(random, implementation == "cuda:simt"), implementation,
                       random.integer(0, 1 << 30));
    EXPECT_EQ(ran, 60) << implementation;
  }
}

TEST(Fp8GemmOnDevice, ShapesOfTheModel) {
  for (const std::string& implementation : cuda_implementations("fp8_gemm_nt")) {
    for (const std::int64_t m : {1, 17, 64}) {
      EXPECT_TRUE(check_fp8({.m = m, .n = 576, .k = 7168}, implementation, m));
      EXPECT_TRUE(check_fp8({.m = m, .n = 576, .k = 7168, .decode = true}, implementation, m));
      EXPECT_TRUE(check_fp8({.m = m, .n = 256, .k = 2048, .out = DType::f32}, implementation, m));
      EXPECT_TRUE(
          check_fp8({.m = m, .n = 256, .k = 2048, .row_b_scale = true, .out = DType::f32, .accumulate = true},
                    implementation, m));
    }
  }
}

// Any code but NaN: drawn eight at a time, for matrices that are too large for a normal distribution.
Tensor random_codes(Random& random, std::int64_t rows, std::int64_t columns) {
  Tensor codes(DType::f8e4m3, {rows, columns});
  auto* bytes = codes.as<std::uint8_t>();
  std::uint64_t word = 0;
  for (std::int64_t i = 0; i < rows * columns; ++i, word >>= 8) {
    if (i % 8 == 0) word = random.engine()();
    bytes[i] = static_cast<std::uint8_t>((word & 0x7f) == 0x7f ? 0 : word);
  }
  return codes;
}

// Every kind of plan: large tiles, clusters, many tiles a block, long k, many segments. The general kernel,
// which has been compared with the reference, is the measure: the reference would take minutes.
TEST(Fp8GemmOnDevice, EveryKindOfPlanAgreesWithTheGeneralKernel) {
  struct Row {
    std::int64_t m, n, k;
    bool decode;
    bool row_scales = false;
  };
  constexpr Row kRows[] = {
      {4096, 7168, 2048, false},   {4096, 576, 7168, false},  {2048, 2112, 7168, false},
      {300, 24576, 1536, false},   {1000, 4096, 7168, false}, {2100, 2048, 7168, false},
      {16, 7168, 16384, false},    {16, 7168, 16384, true},   {150, 576, 7168, true},
      {2000, 576, 7168, false},    {500, 4000, 7168, false},  {1000, 1030, 512, false},
      {200, 590, 1024, false},     {500, 4096, 256, false},   {1000, 1100, 1152, false, true},
      {64, 200, 2048, true, true}, {100, 4096, 7168, true},   {129, 2112, 7168, true},
      {128, 32768, 512, true}};
  for (const Row& row : kRows) {
    SCOPED_TRACE(testing::Message() << row.m << " " << row.n << " " << row.k << " " << row.decode);
    Random random(row.m + row.n);
    const OnDevice a(random_codes(random, row.m, row.k));
    const OnDevice b(random_codes(random, row.n, row.k));
    const OnDevice a_scale(random.uniform(DType::f32, {row.m, scale_groups(row.k)}, 1e-3, 2e-2));
    const OnDevice b_scale(random.uniform(
        DType::f32, {row.row_scales ? row.n : scale_groups(row.n), scale_groups(row.k)}, 1e-3, 2e-2));
    for (const auto& [dtype, padding] :
         {std::pair{DType::f32, 0}, {DType::f32, 1}, {DType::bf16, 0}, {DType::bf16, 1}}) {
      if (padding > 0 && row.m * row.n > 3'000'000) continue;
      std::vector<Strided> results;
      for (const char* implementation : {"cuda:simt", "sm90:wgmma"}) {
        Tensor nan(dtype, {row.m, row.n + padding});
        std::memset(nan.as<void>(), 0xff, static_cast<std::size_t>(nan.count() * size_of(dtype)));
        TensorView rows = nan;
        rows.shape[1] = row.n;
        const OnDevice out(nan, rows);
        fp8_gemm_nt(
            {.a = a, .a_scale = a_scale, .b = b, .b_scale = b_scale, .out = out, .decode = row.decode},
            device_context(implementation));
        results.push_back(out.download());
      }
      std::mutex mutex;
      double product = 0;
      double squares = 0;  // an element that nobody wrote makes it NaN
      on_slices(row.m, [&](std::int64_t first, std::int64_t last) {
        double xy = 0;
        double xx_yy = 0;
        for (std::int64_t i = first; i < last; ++i) {
          for (std::int64_t j = 0; j < row.n; ++j) {
            const double x = at(results[0].view, i, j);
            const double y = at(results[1].view, i, j);
            xy += x * y;
            xx_yy += x * x + y * y;
          }
        }
        const std::lock_guard lock(mutex);
        product += xy;
        squares += xx_yy;
      });
      EXPECT_LT(1 - 2 * product / squares, dtype == DType::f32 ? 1e-6 : 6e-6);
    }
  }
}

// The copy engine writes whole units of 16 bytes, also at the end of a row that ends within one.
TEST(Fp8GemmOnDevice, WhatFollowsARowStays) {
  for (const std::int64_t n : {296, 297, 300, 303}) {
    SCOPED_TRACE(n);
    const Fp8GemmNtProblem p{.m = 40, .n = n, .k = 256};
    const Fp8Operands operands(p, n, 0, Layout::rows);
    const OnDevice a(operands.a);
    const OnDevice b(operands.b);
    const OnDevice a_scale(operands.a_scale);
    const OnDevice b_scale(operands.b_scale);
    const Strided before = strided(poisoned(p.out, {p.m, n}), 304 - n);
    const OnDevice out(before);
    fp8_gemm_nt({.a = a, .a_scale = a_scale, .b = b, .b_scale = b_scale, .out = out}, device_context());
    expect_padding(out.download(), before);
  }
}

TEST(Fp8GemmOnDevice, EmptySizes) {
  for (const std::string& implementation : cuda_implementations("fp8_gemm_nt")) {
    EXPECT_TRUE(check_fp8({.m = 0, .n = 8, .k = 128}, implementation, 1));
    EXPECT_TRUE(check_fp8({.m = 8, .n = 0, .k = 128}, implementation, 2));
    EXPECT_TRUE(check_fp8({.m = 3, .n = 200, .k = 0}, implementation, 3));
    EXPECT_TRUE(
        check_fp8({.m = 3, .n = 20, .k = 0, .out = DType::f32, .accumulate = true}, implementation, 4));
  }
}

// Every code of a against every code of b, NaN and subnormals included.
TEST(Fp8GemmOnDevice, EveryCodeIsExact) {
  Tensor codes(DType::f8e4m3, {256, 1});
  Tensor ones(DType::f32, {256, 1});
  for (std::int64_t i = 0; i < 256; ++i) {
    codes.as<std::uint8_t>()[i] = static_cast<std::uint8_t>(i);
    ones.set(i, 1);
  }
  const OnDevice a(codes);
  const OnDevice a_scale(ones);
  const OnDevice b_scale(ones.view(), ones.view().rows(0, 2));
  const OnDevice out(poisoned(DType::f32, {256, 256}));
  fp8_gemm_nt({.a = a, .a_scale = a_scale, .b = a, .b_scale = b_scale, .out = out}, device_context());
  const Strided got = out.download();
  for (std::int64_t i = 0; i < 256; ++i) {
    for (std::int64_t j = 0; j < 256; ++j) {
      const double expected = codes[i] * codes[j];
      const double value = static_cast<double>(at(got.view, i, j));
      ASSERT_TRUE(value == expected || (std::isnan(value) && std::isnan(expected)))
          << i << " x " << j << ": " << value;
    }
  }
}

TEST(Bf16GemmOnDevice, RandomProblems) {
  for (const std::string& implementation : cuda_implementations("bf16_gemm_nt")) {
    Random random(std::random_device{}());
    int ran = 0;
    for (int i = 0; i < 60; ++i) {
      const bool any = implementation == "cuda:simt";
      const bool aligned = random.integer(0, 1) == 1;
      const bool accumulate = random.integer(0, 2) == 0;
      const Bf16GemmNtProblem p{.m = random.integer(1, 150),
                                .n = aligned ? 64 * random.integer(1, 4) : random.integer(1, 300),
                                .k = aligned ? 64 * random.integer(1, 12)
                                     : any   ? random.integer(1, 700)
                                             : 8 * random.integer(1, 87),
                                .out = accumulate || random.integer(0, 1) == 1 ? DType::f32 : DType::bf16,
                                .accumulate = accumulate,
                                .decode = random.integer(0, 1) == 1};
      ran += check_bf16(p, implementation, random.integer(0, 1 << 30));
    }
    EXPECT_EQ(ran, 60) << implementation;
  }
}

TEST(Bf16GemmOnDevice, EmptySizesAndShapesOfTheModel) {
  for (const std::string& implementation : cuda_implementations("bf16_gemm_nt")) {
    EXPECT_TRUE(check_bf16({.m = 0, .n = 8, .k = 128}, implementation, 1));
    EXPECT_TRUE(check_bf16({.m = 8, .n = 0, .k = 128}, implementation, 2));
    EXPECT_TRUE(check_bf16({.m = 3, .n = 200, .k = 0}, implementation, 3));
    for (const std::int64_t m : {1, 17, 64}) {
      EXPECT_TRUE(check_bf16({.m = m, .n = 64, .k = 7168, .out = DType::f32}, implementation, m));
      EXPECT_TRUE(
          check_bf16({.m = m, .n = 64, .k = 7168, .out = DType::f32, .decode = true}, implementation, m));
      EXPECT_TRUE(check_bf16({.m = m, .n = 256, .k = 7168, .out = DType::f32}, implementation, m));
    }
  }
}

// An op's bytes: the same on every run, alone and in a batch, on any stream, recorded and replayed.
struct Fixed {
  std::string name;
  std::int64_t m;
  std::function<void(std::int64_t first, std::int64_t last, const TensorView& out, const Context&)> run;
};

class Bytes : public ::testing::Test {
 protected:
  static constexpr std::int64_t kM = 150;
  static constexpr std::int64_t kN = 200;

  static std::vector<std::pair<std::string, bool>> in_both_classes(std::string_view op) {
    std::vector<std::pair<std::string, bool>> all;
    for (const std::string& name : cuda_implementations(std::string(op))) {
      for (const bool decode : {false, true}) all.emplace_back(name, decode);
    }
    return all;
  }
  template <class Body>
  void for_each_op(Body body) {
    const Fp8GemmNtProblem p{.m = kM, .n = kN, .k = 1024};
    const Fp8Operands operands(p, 7, 0, Layout::rows);
    const OnDevice a(operands.a_values);
    const OnDevice b(operands.b_values);
    const OnDevice a_scale(operands.a_scale);
    const OnDevice b_scale(operands.b_scale);
    const OnDevice row_scale(Random(9).uniform(DType::f32, {kN, scale_groups(p.k)}, 1e-3, 2e-2));
    for (const auto& [name, decode] : in_both_classes("fp8_gemm_nt")) {
      body(Fixed{"fp8_gemm_nt=" + name, kM,
                 [&](std::int64_t first, std::int64_t last, const TensorView& out, const Context& context) {
                   fp8_gemm_nt({.a = a.view().rows(first, last),
                                .a_scale = a_scale.view().rows(first, last),
                                .b = b,
                                .b_scale = row_scale,
                                .out = out.rows(first, last)},
                               context);
                 }});
      body(Fixed{"fp8_gemm_nt=" + name, kM,
                 [&, decode = decode](std::int64_t first, std::int64_t last, const TensorView& out,
                                      const Context& context) {
                   fp8_gemm_nt({.a = a.view().rows(first, last),
                                .a_scale = a_scale.view().rows(first, last),
                                .b = b,
                                .b_scale = b_scale,
                                .out = out.rows(first, last),
                                .decode = decode},
                               context);
                 }});
    }
    Random random(8);
    const OnDevice x(random.normal(DType::bf16, {kM, 1024}));
    const OnDevice w(random.normal(DType::bf16, {kN, 1024}));
    for (const auto& [name, decode] : in_both_classes("bf16_gemm_nt")) {
      body(Fixed{
          "bf16_gemm_nt=" + name, kM,
          [&, decode = decode](std::int64_t first, std::int64_t last, const TensorView& out,
                               const Context& context) {
            bf16_gemm_nt(
                {.a = x.view().rows(first, last), .b = w, .out = out.rows(first, last), .decode = decode},
                context);
          }});
    }
    for (const auto& [name, decode] : in_both_classes("linear_bf16_fp32")) {
      if (name == "cuda:cublaslt") continue;  // NVIDIA's choice of kernel, and so of order, is its own
      body(Fixed{
          "linear_bf16_fp32=" + name, kM,
          [&, decode = decode](std::int64_t first, std::int64_t last, const TensorView& out,
                               const Context& context) {
            linear_bf16_fp32(
                {.x = x.view().rows(first, last), .w = w, .out = out.rows(first, last), .decode = decode},
                context);
          }});
    }
  }
  // The bytes of rows [0, m) computed `rows` at a time.
  std::optional<Strided> bytes_of(const Fixed& op, std::int64_t rows, const Context& context) {
    const OnDevice out(poisoned(DType::f32, {op.m, kN}));
    if (!runs([&] {
          for (std::int64_t first = 0; first < op.m; first += rows) {
            op.run(first, std::min(op.m, first + rows), out, context);
          }
        })) {
      return std::nullopt;
    }
    cuda::synchronize(context);
    return out.download();
  }
};

TEST_F(Bytes, AreTheSameOnTwoHundredRuns) {
  for_each_op([&](const Fixed& op) {
    SCOPED_TRACE(op.name);
    const Context& context = device_context(op.name);
    const auto first = bytes_of(op, op.m, context);
    if (!first) return;
    for (int i = 0; i < 200 && !HasFailure(); ++i) {
      expect_same_bytes(bytes_of(op, op.m, context)->view, first->view);
    }
  });
}

TEST_F(Bytes, OfARowDoNotDependOnTheOthers) {
  for_each_op([&](const Fixed& op) {
    SCOPED_TRACE(op.name);
    const auto together = bytes_of(op, op.m, device_context(op.name));
    if (!together) return;
    for (const std::int64_t rows : {1, 2, 3, 8, 16, 17, 63, 64, 65, 128, 149}) {
      SCOPED_TRACE(rows);
      expect_same_bytes(bytes_of(op, rows, device_context(op.name))->view, together->view);
    }
  });
}

TEST_F(Bytes, AreTheSameInAGraph) {
  for_each_op([&](const Fixed& op) {
    SCOPED_TRACE(op.name);
    const Context& context = device_context(op.name);
    const auto expected = bytes_of(op, op.m, context);
    if (!expected) return;
    const cuda::Stream stream(context);
    const Context on_stream = context.on_stream(stream.handle());
    const Tensor nan = poisoned(DType::f32, {op.m, kN});
    const OnDevice out(nan);
    const cuda::Graph graph = cuda::Graph::capture(on_stream, [&] { op.run(0, op.m, out, on_stream); });
    EXPECT_TRUE(std::isnan(out.download().buffer[0])) << "recording must not run anything";
    for (int i = 0; i < 3; ++i) {
      out.upload(nan);
      graph.launch(on_stream);
      stream.synchronize();
      expect_same_bytes(out.download().view, expected->view);
    }
  });
}

TEST_F(Bytes, AreTheSameFromManyThreadsAndStreams) {
  for_each_op([&](const Fixed& op) {
    SCOPED_TRACE(op.name);
    const Context& context = device_context(op.name);
    const auto expected = bytes_of(op, op.m, context);
    if (!expected) return;
    std::vector<std::unique_ptr<OnDevice>> outs;
    for (int i = 0; i < 4; ++i) outs.push_back(std::make_unique<OnDevice>(poisoned(DType::f32, {op.m, kN})));
    std::vector<std::thread> threads;
    for (const auto& out : outs) {
      threads.emplace_back([&] {
        const cuda::Stream stream(context);
        for (int i = 0; i < 20; ++i) op.run(0, op.m, *out, context.on_stream(stream.handle()));
        stream.synchronize();
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (const auto& out : outs) expect_same_bytes(out->download().view, expected->view);
  });
}

TEST_F(Bytes, AreUntouchedWhenKernelsAreOnlyCompiled) {
  for_each_op([&](const Fixed& op) {
    SCOPED_TRACE(op.name);
    ContextOptions options = device_context(op.name).options();
    options.compile_mode = CompileMode::compile_only;
    const Context context(options);
    const auto got = bytes_of(op, op.m, context);
    if (!got) return;
    for (std::int64_t i = 0; i < got->buffer.count(); ++i) ASSERT_TRUE(std::isnan(got->buffer[i]));
  });
}

// Rows more than 2^32 elements apart: 32-bit offsets would fall on other bytes.
TEST(WideStrides, AreIndexedWith64Bits) {
  constexpr std::int64_t kFar = (std::int64_t{1} << 32) + 64;
  constexpr std::int64_t kK = 130;
  constexpr std::int64_t kN = 5;
  Random random(3);
  const Tensor a = random.normal(DType::f8e4m3, {2, kK}, 60);
  const Tensor b = random.normal(DType::f8e4m3, {kN, kK}, 60);
  const Tensor a_scale = random.uniform(DType::f32, {2, 2}, 1e-3, 2e-2);
  const Tensor b_scale = random.uniform(DType::f32, {1, 2}, 1e-3, 2e-2);
  Tensor expected = poisoned(DType::f32, {2, kN});
  fp8_gemm_nt({.a = a, .a_scale = a_scale, .b = b, .b_scale = b_scale, .out = expected}, test_context());
  const Context& context = device_context("fp8_gemm_nt=cuda:simt");
  const cuda::DeviceBuffer far(context, kFar + kK);
  TensorView far_a = far.view(DType::f8e4m3, {2, kK});
  far_a.stride[0] = kFar;
  for (std::int64_t i = 0; i < 2; ++i) {
    cuda::copy_to_device(context, far_a.as<std::uint8_t>() + i * kFar, a.as<std::uint8_t>() + i * kK, kK);
  }
  const cuda::DeviceBuffer far_result(context, kFar + 4 * kN);
  TensorView far_out = far_result.view(DType::f32, {2, kN});
  far_out.stride[0] = kFar / 4;
  const OnDevice device_b(b);
  const OnDevice device_a_scale(a_scale);
  const OnDevice device_b_scale(b_scale);
  fp8_gemm_nt(
      {.a = far_a, .a_scale = device_a_scale, .b = device_b, .b_scale = device_b_scale, .out = far_out},
      context);
  Tensor got = poisoned(DType::f32, {2, kN});
  for (std::int64_t i = 0; i < 2; ++i) {
    cuda::copy_to_host(context, got.as<float>() + i * kN, far_out.as<float>() + i * far_out.stride[0],
                       4 * kN);
  }
  cuda::synchronize(context);
  expect_close(got, expected, {.relative = 1e-5, .absolute = 1e-3});
}

// Kernels that the driver refuses, memory that is not there: errors with names, and the device goes on.
TEST(Errors, OfTheDriverAreReported) {
  EXPECT_ERROR(CudaError, "CUDA_ERROR_OUT_OF_MEMORY",
               cuda::DeviceBuffer(device_context(), std::int64_t{1} << 45));
  const cuda::DeviceBuffer works(device_context(), 1024);
  EXPECT_NE(works.data(), nullptr);
}

}  // namespace
}  // namespace fathom
