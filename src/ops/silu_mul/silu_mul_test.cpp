#include "fathom/ops/silu_mul.hpp"

#include <cmath>
#include <limits>

#include "ops/op_test.hpp"
#include "ops/silu.hpp"
#include "ops/silu_mul/silu_mul_impl.hpp"

namespace fathom {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

TEST(SiluMul, AgreesWithDouble) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const DType out : {DType::f32, DType::bf16}) {
      constexpr std::int64_t kDim = 333;
      Random random(3);
      const Tensor gate_up = random.normal(dtype, {7, 2 * kDim}, 8);
      Tensor got = poisoned(out, {7, kDim});
      silu_mul({.gate_up = gate_up, .out = got}, test_context());
      Tensor expected(DType::f32, {7, kDim});
      for (std::int64_t i = 0; i < 7 * kDim; ++i) {
        const double gate = gate_up[i / kDim * 2 * kDim + i % kDim];
        const double up = gate_up[i / kDim * 2 * kDim + kDim + i % kDim];
        expected.set(i, gate / (1 + std::exp(-gate)) * up);
      }
      expect_close(got, expected, {.relative = out == DType::bf16 ? 0x1p-8 : 0x1p-21});
    }
  }
}

TEST(SiluMul, ExponentialIsWithinTwoUlp) {
  double worst = 0;
  for (float t = -79.9f; t < 88.7f; t += 0.00123f) {
    const double expected = std::exp(static_cast<double>(t));
    worst = std::max(worst, std::abs(exp_for_sigmoid(t) - expected) / expected);
  }
  EXPECT_LT(worst, 2 * 0x1p-23);
  EXPECT_EQ(exp_for_sigmoid(0), 1.0f);
  EXPECT_EQ(exp_for_sigmoid(89), kInfinity);
  EXPECT_EQ(exp_for_sigmoid(kInfinity), kInfinity);
  EXPECT_EQ(1 + exp_for_sigmoid(-kInfinity), 1.0f);
}

TEST(SiluMul, ClampIsOneSidedForTheGate) {
  // gates, then ups
  const Tensor gate_up =
      tensor_of<float>(DType::bf16, {1, 12}, {-100, 100, 10, 1, 1, -9.9375f, 1, 1, 1, 100, -100, 10});
  Tensor got = poisoned(DType::f32, {1, 6});
  silu_mul({.gate_up = gate_up, .out = got, .clamp_limit = 10.0f}, test_context());
  const auto silu64 = [](double g) { return g / (1 + std::exp(-g)); };
  const double gates[] = {-100, 10, 10, 1, 1, -9.9375};
  const double ups[] = {1, 1, 1, 10, -10, 10};
  for (std::int64_t i = 0; i < 6; ++i) {
    const double expected = silu64(gates[i]) * ups[i];
    EXPECT_NEAR(got[i], expected, std::abs(expected) * 1e-6 + 1e-36);
  }
  // The limit is rounded to bf16 with the values: 10.03 becomes 10.
  Tensor rounded = poisoned(DType::f32, {1, 6});
  silu_mul({.gate_up = gate_up, .out = rounded, .clamp_limit = 10.03f}, test_context());
  expect_same_bytes(rounded, got);
}

TEST(SiluMul, NanAndInfinity) {
  const Tensor gate_up =
      tensor_of<float>(DType::f32, {1, 10}, {kNan, 1, kInfinity, -kInfinity, -200, 1, kNan, 2, 1, 1});
  for (const bool clamp : {false, true}) {
    SiluMulArgs args{.gate_up = gate_up};
    if (clamp) args.clamp_limit = 7.0f;
    for (const std::string implementation : {"ref:any", "cpu:simd"}) {
      const Tensor out = poisoned(DType::f32, {1, 5});
      args.out = out;
      silu_mul(args, forced_context(implementation));
      EXPECT_TRUE(std::isnan(out[0]));
      EXPECT_TRUE(std::isnan(out[1]));
      if (clamp) {
        EXPECT_NEAR(out[2], 14 / (1 + std::exp(-7)), 1e-5);
      } else {
        EXPECT_EQ(out[2], kInfinity);
      }
      EXPECT_TRUE(std::isnan(out[3]));  // -inf / (1 + inf)
      EXPECT_EQ(out[4], 0);
    }
  }
}

// Any shape, stride and dtype: the bytes of the reference, and no byte outside of the views.
TEST(SiluMul, EveryImplementationGivesTheSameBytes) {
  Random random(99);
  for (int round = 0; round < 200; ++round) {
    const DType dtypes[] = {DType::f32, DType::bf16};
    SiluMulProblem problem{.rows = random.integer(0, 6),
                           .dim = random.integer(1, 300),
                           .gate_up = dtypes[random.integer(0, 1)],
                           .out = dtypes[random.integer(0, 1)],
                           .clamp = random.integer(0, 1) == 1};
    SCOPED_TRACE(problem_string(problem));
    const std::int64_t padding = random.integer(0, 1) * random.integer(1, 40);
    const Tensor storage =
        random.normal(problem.gate_up, {problem.rows, 2 * problem.dim + padding}, random.integer(1, 60));
    SiluMulArgs args{.gate_up = storage};
    args.gate_up.shape[1] = 2 * problem.dim;
    if (problem.clamp) args.clamp_limit = static_cast<float>(random.integer(1, 100)) / 7;
    Tensor got = poisoned(problem.out, {problem.rows, problem.dim + padding});
    Tensor expected = poisoned(problem.out, {problem.rows, problem.dim + padding});
    args.out = got;
    args.out.shape[1] = problem.dim;
    silu_mul(args, test_context());
    args.out.data = expected.view().data;
    silu_mul_ref(problem, args, test_context());
    expect_same_bytes(got, expected);
    if (HasFailure()) return;
  }
}

TEST(SiluMul, RowsDoNotDependOnOneAnother) {
  Random random(8);
  const Tensor gate_up = random.normal(DType::bf16, {150, 2 * 301}, 4);
  Tensor together = poisoned(DType::bf16, {150, 301});
  Tensor alone = poisoned(DType::bf16, {150, 301});
  silu_mul({.gate_up = gate_up, .out = together}, test_context(2));
  for (std::int64_t r = 0; r < 150; ++r) {
    silu_mul({.gate_up = gate_up.view().rows(r, r + 1), .out = alone.view().rows(r, r + 1)}, test_context(1));
  }
  expect_same_bytes(together, alone);
}

TEST(SiluMul, RejectsBadArguments) {
  const Tensor gate_up = poisoned(DType::f32, {4, 16});
  const Tensor out = poisoned(DType::f32, {4, 8});
  EXPECT_ERROR(InvalidArgument, "silu_mul: 'gate_up' must have shape [4,14], got [4,16]",
               silu_mul({.gate_up = gate_up, .out = poisoned(DType::f32, {4, 7})}, test_context()));
  EXPECT_ERROR(InvalidArgument, "silu_mul: 'out' must be f32 or bf16, got f8e4m3",
               silu_mul({.gate_up = gate_up, .out = poisoned(DType::f8e4m3, {4, 8})}, test_context()));
  for (const float limit : {0.0f, -1.0f, kInfinity, kNan}) {
    EXPECT_ERROR(InvalidArgument, "silu_mul: 'clamp_limit' must be positive and finite",
                 silu_mul({.gate_up = gate_up, .out = out, .clamp_limit = limit}, test_context()));
  }
}

}  // namespace
}  // namespace fathom
