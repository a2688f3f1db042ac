#include "fathom/ops/fp8_gemm_nt.hpp"

#include "ops/gemm_scales.hpp"
#include "ops/gemm_test.hpp"

namespace fathom {
namespace {

using Problem = Fp8GemmNtProblem;

// Random operands of one problem, in the layouts it names.
struct Operands {
  explicit Operands(const Problem& p, std::int64_t seed = 1)
      : random(seed),
        a(strided(random.normal(DType::f8e4m3, {p.m, p.k}, 60), 3)),
        b(strided(random.normal(DType::f8e4m3, {p.n, p.k}, 60), 5)),
        a_scale(scales(p.m, scale_groups(p.k), p.packed_a_scale)),
        b_scale(scales(p.row_b_scale || p.packed_b_scale ? p.n : scale_groups(p.n), scale_groups(p.k),
                       p.packed_b_scale)) {}

  Tensor scales(std::int64_t rows, std::int64_t groups, bool packed) {
    if (!packed) return random.uniform(DType::f32, {rows, groups}, 1e-3, 2e-2);
    Tensor words(DType::i32, {rows, (groups + 3) / 4});
    for (std::int64_t i = 0; i < words.count() * 4; ++i) {
      words.as<std::uint8_t>()[i] = static_cast<std::uint8_t>(random.integer(110, 128));
    }
    return words;
  }
  Fp8GemmNtArgs args(const TensorView& out, bool accumulate) const {
    return {.a = a.view,
            .a_scale = a_scale,
            .b = b.view,
            .b_scale = b_scale,
            .out = out,
            .accumulate = accumulate};
  }

  Random random;
  Strided a;
  Strided b;
  Tensor a_scale;
  Tensor b_scale;
};

GemmOracle oracle(const Problem& p, const Operands& operands, const Tensor* base) {
  const std::int64_t block = p.row_b_scale || p.packed_b_scale ? 1 : 128;
  return gemm_oracle(
      p.m, p.n, p.k, p.out,
      [&](std::int64_t i, std::int64_t k) {
        return static_cast<double>(at(operands.a.view, i, k)) *
               static_cast<double>(scale_at(operands.a_scale, i, k / 128));
      },
      [&](std::int64_t j, std::int64_t k) {
        return static_cast<double>(at(operands.b.view, j, k)) *
               static_cast<double>(scale_at(operands.b_scale, j / block, k / 128));
      },
      [&](std::int64_t i, std::int64_t j) { return base ? (*base)[i * p.n + j] : 0.0; });
}

// Runs the problem and compares every element; what lies between the rows of `out` must stay untouched.
void check(const Problem& p, const Context& context) {
  SCOPED_TRACE(problem_string(p));
  Operands operands(p, p.m + p.n * 7 + p.k * 31);
  const Tensor base = operands.random.normal(DType::f32, {p.m, p.n});
  const Tensor nan = poisoned(p.out, {p.m, p.n});
  const Strided out = strided(p.accumulate ? base : nan, 2);
  fp8_gemm_nt(operands.args(out.view, p.accumulate), context);
  const GemmOracle expected = oracle(p, operands, p.accumulate ? &base : nullptr);
  if (p.k > 0) expect_within(out.view, expected.expected, expected.bound);
  for (std::int64_t i = 0; i < p.m; ++i) {
    for (std::int64_t j = 0; j < p.n; ++j) EXPECT_FALSE(std::isnan(at(out.view, i, j)));
    for (std::int64_t j = p.n; j < p.n + 2; ++j) EXPECT_TRUE(std::isnan(out.buffer[i * (p.n + 2) + j]));
  }
}

TEST(Fp8GemmNt, AgreesWithOracle) {
  for (const Problem& p : {
           Problem{.m = 1, .n = 256, .k = 256},
           Problem{.m = 2, .n = 17, .k = 129, .out = DType::f32},
           Problem{.m = 5, .n = 130, .k = 384},
           Problem{.m = 1, .n = 1, .k = 1, .out = DType::f32},
           Problem{.m = 3, .n = 16, .k = 64, .out = DType::f32},
           Problem{.m = 4, .n = 129, .k = 1000, .out = DType::f32},
           Problem{.m = 33, .n = 66, .k = 127},
           Problem{.m = 16, .n = 80, .k = 512, .out = DType::f32},
           Problem{.m = 70, .n = 200, .k = 260, .out = DType::f32},
           Problem{.m = 7, .n = 90, .k = 700, .packed_a_scale = true, .out = DType::f32},
           Problem{.m = 9, .n = 140, .k = 600, .row_b_scale = true, .out = DType::f32, .accumulate = true},
           Problem{.m = 2, .n = 50, .k = 257, .row_b_scale = true},
           Problem{.m = 21,
           .n = 40,
           .k = 513,
           .packed_a_scale = true,
           .row_b_scale = true,
           .packed_b_scale = true},
           Problem{.m = 6, .n = 144, .k = 128, .out = DType::f32, .accumulate = true},
       }) {
    check(p, test_context());
    check(p, forced_context("ref:any"));
  }
}

TEST(Fp8GemmNt, RandomSizes) {
  Random random(std::random_device{}());
  for (int i = 0; i < 40; ++i) {
    const bool accumulate = random.integer(0, 3) == 0;
    check({.m = random.integer(1, 40),
           .n = random.integer(1, 200),
           .k = random.integer(1, 500),
           .packed_a_scale = random.integer(0, 1) == 1,
           .row_b_scale = random.integer(0, 1) == 1,
           .out = accumulate || random.integer(0, 1) == 1 ? DType::f32 : DType::bf16,
           .accumulate = accumulate},
          test_context());
  }
}

TEST(Fp8GemmNt, EmptySizes) {
  check({.m = 0, .n = 8, .k = 128}, test_context());
  check({.m = 8, .n = 0, .k = 128}, test_context());
  check({.m = 3, .n = 20, .k = 0}, test_context());
  check({.m = 3, .n = 20, .k = 0, .out = DType::f32, .accumulate = true}, test_context());
  Operands operands({.m = 3, .n = 20, .k = 0});
  Tensor out = poisoned(DType::f32, {3, 20});
  fp8_gemm_nt(operands.args(out, false), test_context());
  for (std::int64_t i = 0; i < 60; ++i) EXPECT_EQ(out[i], 0);
}

// Every code of a against every code of b, NaN and subnormals included.
TEST(Fp8GemmNt, EveryCodeIsExact) {
  Tensor codes(DType::f8e4m3, {256, 1});
  for (std::int64_t i = 0; i < 256; ++i) codes.as<std::uint8_t>()[i] = static_cast<std::uint8_t>(i);
  Tensor ones(DType::f32, {256, 1});
  for (std::int64_t i = 0; i < 256; ++i) ones.set(i, 1);
  for (const std::int64_t m : {std::int64_t{1}, std::int64_t{256}}) {
    for (std::int64_t first = 0; first < 256; first += m) {
      Tensor out = poisoned(DType::f32, {m, 256});
      fp8_gemm_nt({.a = codes.view().rows(first, first + m),
                   .a_scale = ones.view().rows(0, m),
                   .b = codes,
                   .b_scale = ones.view().rows(0, 2),
                   .out = out},
                  test_context());
      for (std::int64_t i = 0; i < m; ++i) {
        for (std::int64_t j = 0; j < 256; ++j) {
          const double expected = codes[first + i] * codes[j];
          const double got = out[i * 256 + j];
          ASSERT_TRUE(got == expected || (std::isnan(got) && std::isnan(expected)))
              << first + i << " x " << j << ": " << got << ", expected " << expected;
        }
      }
    }
  }
}

// The same inside of whole groups, where each code of b is the only one of its row that is not 0: NaN spoils
// its column and no other, wherever it is.
TEST(Fp8GemmNt, EveryCodeIsExactInWholeGroups) {
  const std::int64_t k = 256;
  Tensor b(DType::f8e4m3, {256, k});
  for (std::int64_t j = 0; j < 256; ++j) {
    for (std::int64_t i = 0; i < k; ++i) b.as<std::uint8_t>()[j * k + i] = 0;
    b.as<std::uint8_t>()[j * k + j * 37 % k] = static_cast<std::uint8_t>(j);
  }
  Tensor ones(DType::f32, {48, 2});
  for (std::int64_t i = 0; i < ones.count(); ++i) ones.set(i, 1);
  Tensor a(DType::f8e4m3, {48, k});
  for (std::int64_t i = 0; i < a.count(); ++i) a.set(i, 1);
  for (const std::int64_t m : {1, 2, 3, 4, 7, 48}) {
    Tensor out = poisoned(DType::f32, {m, 256});
    fp8_gemm_nt({.a = a.view().rows(0, m),
                 .a_scale = ones.view().rows(0, m),
                 .b = b,
                 .b_scale = ones.view().rows(0, 2),
                 .out = out},
                test_context());
    for (std::int64_t i = 0; i < m * 256; ++i) {
      const double expected = b[i % 256 * k + i % 256 * 37 % k];
      ASSERT_TRUE(out[i] == expected || (std::isnan(out[i]) && std::isnan(expected)))
          << m << " rows, code " << i % 256 << ": " << out[i] << ", expected " << expected;
    }
  }
}

TEST(Fp8GemmNt, ScaleLayoutsGiveTheSameBytes) {
  const Problem p{.m = 13, .n = 150, .k = 700};
  Operands operands(p);
  for (std::int64_t i = 0; i < operands.a_scale.count(); ++i) {
    operands.a_scale.set(i, std::exp2(static_cast<double>(operands.random.integer(-12, 2))));
  }
  const std::int64_t groups = scale_groups(p.k);
  Tensor packed(DType::i32, {p.m, (groups + 3) / 4});
  for (std::int64_t i = 0; i < p.m; ++i) {
    for (std::int64_t g = 0; g < groups; ++g) {
      packed.as<std::uint8_t>()[i * 4 * ((groups + 3) / 4) + g] =
          static_cast<std::uint8_t>(127 + std::ilogb(operands.a_scale[i * groups + g]));
    }
  }
  const Strided column = column_major(operands.a_scale, p.m);
  const Strided aligned = column_major(operands.a_scale, (p.m + 3) / 4 * 4);
  const Strided packed_aligned = column_major(packed, (p.m + 3) / 4 * 4);
  Tensor expected = poisoned(DType::f32, {p.m, p.n});
  Fp8GemmNtArgs args = operands.args(expected, false);
  fp8_gemm_nt(args, test_context());
  for (const TensorView& scale : {column.view, aligned.view, packed.view(), packed_aligned.view}) {
    Tensor out = poisoned(DType::f32, {p.m, p.n});
    args.a_scale = scale;
    args.out = out;
    fp8_gemm_nt(args, test_context());
    expect_same_bytes(out, expected);
  }
}

// The numerics rule: a row's bytes do not depend on how many rows there are, nor on the threads.
TEST(Fp8GemmNt, RowsDoNotDependOnOneAnother) {
  for (const Problem& p : {Problem{.m = 300, .n = 200, .k = 385, .out = DType::f32},
                           Problem{.m = 300, .n = 65, .k = 1024, .row_b_scale = true, .out = DType::f32},
                           Problem{.m = 70, .n = 1100, .k = 512, .out = DType::f32}}) {
    SCOPED_TRACE(problem_string(p));
    const Operands operands(p);
    Tensor together = poisoned(DType::f32, {p.m, p.n});
    const Fp8GemmNtArgs all = operands.args(together, false);
    fp8_gemm_nt(all, test_context(2));
    for (const int threads : {1, 3}) {
      Tensor again = poisoned(DType::f32, {p.m, p.n});
      fp8_gemm_nt(operands.args(again, false), test_context(threads));
      expect_same_bytes(again, together);
    }
    for (const std::int64_t rows : {1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 16, 17, 24, 31, 64, 66, 67}) {
      Tensor parts = poisoned(DType::f32, {p.m, p.n});
      for (std::int64_t first = 0; first < p.m; first += rows) {
        const std::int64_t last = std::min(p.m, first + rows);
        Fp8GemmNtArgs args = all;
        args.a = all.a.rows(first, last);
        args.a_scale = all.a_scale.rows(first, last);
        args.out = parts.view().rows(first, last);
        fp8_gemm_nt(args, test_context(rows % 2 == 0 ? 2 : 1));
      }
      SCOPED_TRACE(rows);
      expect_same_bytes(parts, together);
    }
  }
}

TEST(Fp8GemmNt, QuantisedProductIsCloseToTheOriginal) {
  Random random(5);
  const std::int64_t m = 32;
  const std::int64_t n = 256;
  const std::int64_t k = 512;
  const Tensor x = random.normal(DType::f32, {m, k});
  const Tensor w = random.normal(DType::f32, {n, k});
  Tensor a(DType::f8e4m3, {m, k});
  Tensor b(DType::f8e4m3, {n, k});
  Tensor a_scale(DType::f32, {m, k / 128});
  Tensor b_scale(DType::f32, {n / 128, k / 128});
  for (std::int64_t i = 0; i < a_scale.count(); ++i) a_scale.set(i, 4.0 / 448);
  for (std::int64_t i = 0; i < b_scale.count(); ++i) b_scale.set(i, 5.0 / 448);
  for (std::int64_t i = 0; i < x.count(); ++i) a.set(i, x[i] * 448 / 4);
  for (std::int64_t i = 0; i < w.count(); ++i) b.set(i, w[i] * 448 / 5);
  Tensor out = poisoned(DType::bf16, {m, n});
  fp8_gemm_nt({.a = a, .a_scale = a_scale, .b = b, .b_scale = b_scale, .out = out}, test_context());
  const GemmOracle oracle = gemm_oracle(
      m, n, k, DType::f32, [&](std::int64_t i, std::int64_t c) { return x[i * k + c]; },
      [&](std::int64_t j, std::int64_t c) { return w[j * k + c]; },
      [](std::int64_t, std::int64_t) { return 0.0; });
  EXPECT_LT(calc_diff(out, oracle.expected), 1e-3);
}

TEST(Fp8GemmNt, RejectsBadArguments) {
  const Operands operands({.m = 4, .n = 300, .k = 260});
  const Tensor out = poisoned(DType::bf16, {4, 300});
  const Fp8GemmNtArgs good = operands.args(out, false);
  auto with = [&](auto change) {
    Fp8GemmNtArgs args = good;
    change(args);
    fp8_gemm_nt(args, test_context());
  };
  EXPECT_ERROR(InvalidArgument, "fp8_gemm_nt: 'b' must have shape [*,260], got [300,259]",
               with([&](auto& args) { args.b.shape[1] = 259; }));
  EXPECT_ERROR(InvalidArgument, "fp8_gemm_nt: 'a_scale' must have shape [4,3], got [4,2]",
               with([&](auto& args) { args.a_scale.shape[1] = 2; }));
  EXPECT_ERROR(InvalidArgument, "fp8_gemm_nt: 'a_scale' must have shape [4,1], got [4,3]",
               with([&](auto& args) { args.a_scale.dtype = DType::i32; }));
  EXPECT_ERROR(InvalidArgument, "fp8_gemm_nt: 'b_scale' must have shape [3,3], got [4,3]",
               with([&](auto& args) { args.b_scale.shape[0] = 4; }));
  EXPECT_ERROR(InvalidArgument, "fp8_gemm_nt: 'out' must be f32, got bf16",
               with([&](auto& args) { args.accumulate = true; }));
  EXPECT_ERROR(InvalidArgument, "fp8_gemm_nt: 'a' must have stride 1 on its last axis, got 2",
               with([&](auto& args) { args.a.stride[1] = 2; }));
  EXPECT_ERROR(InvalidArgument, "fp8_gemm_nt: 'b' must be f8e4m3, got bf16",
               with([&](auto& args) { args.b.dtype = DType::bf16; }));
}

}  // namespace
}  // namespace fathom
