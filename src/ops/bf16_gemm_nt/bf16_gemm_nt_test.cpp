#include "fathom/ops/bf16_gemm_nt.hpp"

#include "ops/gemm_test.hpp"

namespace fathom {
namespace {

using Problem = Bf16GemmNtProblem;

void check(const Problem& p, const Context& context) {
  SCOPED_TRACE(problem_string(p));
  Random random(p.m + p.n * 7 + p.k * 31);
  const Strided a = strided(random.normal(DType::bf16, {p.m, p.k}), 3);
  const Strided b = strided(random.normal(DType::bf16, {p.n, p.k}), 1);
  const Tensor base = random.normal(p.out, {p.m, p.n});
  const Tensor nan = poisoned(p.out, {p.m, p.n});
  const Strided out = strided(p.accumulate ? base : nan, 2);
  bf16_gemm_nt({.a = a.view, .b = b.view, .out = out.view, .accumulate = p.accumulate}, context);
  const GemmOracle expected = gemm_oracle(
      p.m, p.n, p.k, p.out,
      [&](std::int64_t i, std::int64_t k) { return static_cast<double>(at(a.view, i, k)); },
      [&](std::int64_t j, std::int64_t k) { return static_cast<double>(at(b.view, j, k)); },
      [&](std::int64_t i, std::int64_t j) { return p.accumulate ? base[i * p.n + j] : 0.0; });
  if (p.k > 0) expect_within(out.view, expected.expected, expected.bound);
  for (std::int64_t i = 0; i < p.m; ++i) {
    for (std::int64_t j = 0; j < p.n; ++j) EXPECT_FALSE(std::isnan(at(out.view, i, j)));
    for (std::int64_t j = p.n; j < p.n + 2; ++j) EXPECT_TRUE(std::isnan(out.buffer[i * (p.n + 2) + j]));
  }
}

TEST(Bf16GemmNt, AgreesWithOracle) {
  for (const Problem& p : {
           Problem{.m = 1, .n = 256, .k = 256},
           Problem{.m = 2, .n = 17, .k = 129, .out = DType::f32},
           Problem{.m = 1, .n = 1, .k = 1, .out = DType::f32},
           Problem{.m = 5, .n = 130, .k = 384, .accumulate = true},
           Problem{.m = 4, .n = 129, .k = 1000, .out = DType::f32, .accumulate = true},
           Problem{.m = 33, .n = 66, .k = 127},
           Problem{.m = 70, .n = 200, .k = 263, .out = DType::f32},
           Problem{.m = 0, .n = 8, .k = 128},
           Problem{.m = 8, .n = 0, .k = 128},
           Problem{.m = 3, .n = 20, .k = 0},
       }) {
    check(p, test_context());
    check(p, forced_context("ref:any"));
  }
}

TEST(Bf16GemmNt, RandomSizes) {
  Random random(std::random_device{}());
  for (int i = 0; i < 40; ++i) {
    check({.m = random.integer(1, 40),
           .n = random.integer(1, 200),
           .k = random.integer(1, 500),
           .out = random.integer(0, 1) == 1 ? DType::f32 : DType::bf16,
           .accumulate = random.integer(0, 1) == 1},
          test_context());
  }
}

TEST(Bf16GemmNt, RowsDoNotDependOnOneAnother) {
  const Problem p{.m = 200, .n = 210, .k = 391, .out = DType::f32};
  Random random(2);
  const Tensor a = random.normal(DType::bf16, {p.m, p.k});
  const Tensor b = random.normal(DType::bf16, {p.n, p.k});
  Tensor together = poisoned(DType::f32, {p.m, p.n});
  bf16_gemm_nt({.a = a, .b = b, .out = together}, test_context(2));
  for (const std::int64_t rows : {1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 16, 17, 24, 31, 64, 200}) {
    SCOPED_TRACE(rows);
    Tensor parts = poisoned(DType::f32, {p.m, p.n});
    for (std::int64_t first = 0; first < p.m; first += rows) {
      const std::int64_t last = std::min(p.m, first + rows);
      bf16_gemm_nt({.a = a.view().rows(first, last), .b = b, .out = parts.view().rows(first, last)},
                   test_context(rows % 2 == 0 ? 3 : 1));
    }
    expect_same_bytes(parts, together);
  }
}

TEST(Bf16GemmNt, HandComputed) {
  const Tensor a = tensor_of<float>(DType::bf16, {2, 3}, {1, 2, 3, -1, 0, 1});
  const Tensor b = tensor_of<float>(DType::bf16, {2, 3}, {1, 1, 1, 2, 0, -2});
  Tensor out = tensor_of<float>(DType::f32, {2, 2}, {10, 20, 30, 40});
  bf16_gemm_nt({.a = a, .b = b, .out = out, .accumulate = true}, test_context());
  expect_same_bytes(out, tensor_of<float>(DType::f32, {2, 2}, {16, 16, 30, 36}));
}

TEST(Bf16GemmNt, RejectsBadArguments) {
  const Tensor a = poisoned(DType::bf16, {2, 8});
  const Tensor out = poisoned(DType::f32, {2, 4});
  EXPECT_ERROR(InvalidArgument, "bf16_gemm_nt: 'b' must have shape [*,8], got [4,7]",
               bf16_gemm_nt({.a = a, .b = poisoned(DType::bf16, {4, 7}), .out = out}, test_context()));
  EXPECT_ERROR(InvalidArgument, "bf16_gemm_nt: 'a' must be bf16, got f32",
               bf16_gemm_nt({.a = out, .b = a, .out = out}, test_context()));
}

}  // namespace
}  // namespace fathom
