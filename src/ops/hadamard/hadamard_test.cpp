#include "fathom/ops/hadamard.hpp"

#include <bit>
#include <cmath>

#include "ops/hadamard/hadamard_impl.hpp"
#include "ops/op_test.hpp"

namespace fathom {
namespace {

TEST(Hadamard, AgreesWithTheMatrix) {
  for (const std::string implementation : {"ref:any", "cpu:simd"}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      for (const std::int64_t dim : {1, 2, 4, 8, 16, 32, 64, 128, 256, 512}) {
        SCOPED_TRACE(implementation + " " + std::to_string(dim));
        Random random(dim);
        const Tensor x = random.normal(dtype, {3, dim});
        Tensor got = poisoned(DType::f32, {3, dim});
        hadamard({.x = x, .out = got}, forced_context(implementation));
        Tensor expected(DType::f32, {3, dim});
        for (std::int64_t r = 0; r < 3; ++r) {
          for (std::int64_t i = 0; i < dim; ++i) {
            double sum = 0;
            for (std::int64_t j = 0; j < dim; ++j) {
              sum += (std::popcount(static_cast<std::uint64_t>(i & j)) % 2 ? -1 : 1) * x[r * dim + j];
            }
            expected.set(r * dim + i, sum / std::sqrt(static_cast<double>(dim)));
          }
        }
        expect_close(got, expected, {.relative = 2e-7, .absolute = 1e-6});
      }
    }
  }
}

// A row's error is below log2(dim) + 2 roundings of the sum of magnitudes.
TEST(Hadamard, AgreesWithReference) {
  Random random(17);
  for (int round = 0; round < 120; ++round) {
    const DType dtypes[] = {DType::f32, DType::bf16};
    const int log2_dim = static_cast<int>(random.integer(0, 13));
    const HadamardProblem problem{.rows = random.integer(0, 5),
                                  .dim = std::int64_t{1} << log2_dim,
                                  .x = dtypes[random.integer(0, 1)],
                                  .out = dtypes[random.integer(0, 1)]};
    SCOPED_TRACE(problem_string(problem));
    const std::int64_t padding = random.integer(0, 9);
    const Tensor storage = random.normal(problem.x, {problem.rows, problem.dim + padding});
    HadamardArgs args{.x = storage};
    args.x.shape[1] = problem.dim;
    Tensor got = poisoned(problem.out, {problem.rows, problem.dim});
    Tensor expected = poisoned(DType::f32, {problem.rows, problem.dim});
    Tensor bound = poisoned(DType::f32, {problem.rows, problem.dim});
    args.out = got;
    hadamard(args, test_context());
    args.out = expected;
    hadamard_ref(problem, args, test_context());
    for (std::int64_t r = 0; r < problem.rows; ++r) {
      double magnitude = 0;
      for (std::int64_t i = 0; i < problem.dim; ++i) {
        magnitude += std::abs(storage[r * (problem.dim + padding) + i]);
      }
      magnitude /= std::sqrt(static_cast<double>(problem.dim));
      for (std::int64_t i = 0; i < problem.dim; ++i) {
        const double rounding =
            problem.out == DType::bf16 ? std::abs(expected[r * problem.dim + i]) * 0x1p-8 : 0;
        bound.set(r * problem.dim + i, magnitude * (log2_dim + 2) * 0x1p-24 * 1.01 + rounding);
      }
    }
    expect_within(got, expected, bound);
    if (HasFailure()) return;
  }
}

TEST(Hadamard, IsItsOwnInverseAndKeepsDotProducts) {
  Random random(2);
  const Tensor x = random.normal(DType::f32, {2, 128});
  Tensor y = poisoned(DType::f32, {2, 128});
  hadamard({.x = x, .out = y}, test_context());
  double before = 0;
  double after = 0;
  for (std::int64_t i = 0; i < 128; ++i) {
    before += x[i] * x[128 + i];
    after += y[i] * y[128 + i];
  }
  EXPECT_NEAR(before, after, 1e-4);
  hadamard({.x = y, .out = y}, test_context());  // in place
  expect_close(y, x, {.absolute = 2e-6});
}

TEST(Hadamard, RowsDoNotDependOnOneAnother) {
  Random random(7);
  const Tensor x = random.normal(DType::f32, {600, 128});
  Tensor together = poisoned(DType::f32, {600, 128});
  Tensor alone = poisoned(DType::f32, {600, 128});
  hadamard({.x = x, .out = together}, test_context(2));
  for (std::int64_t r = 0; r < 600; ++r) {
    hadamard({.x = x.view().rows(r, r + 1), .out = alone.view().rows(r, r + 1)}, test_context(1));
  }
  expect_same_bytes(together, alone);
}

TEST(Hadamard, RejectsBadArguments) {
  for (const std::int64_t dim : {0, 3, 12, 130}) {
    const Tensor x = poisoned(DType::f32, {4, dim});
    EXPECT_ERROR(InvalidArgument, "hadamard: 'dim' must be a power of two, got " + std::to_string(dim),
                 hadamard({.x = x, .out = x}, test_context()));
  }
  const Tensor x = poisoned(DType::f32, {4, 8});
  EXPECT_ERROR(InvalidArgument, "hadamard: 'out' must have shape [4,8], got [3,8]",
               hadamard({.x = x, .out = poisoned(DType::f32, {3, 8})}, test_context()));
}

}  // namespace
}  // namespace fathom
