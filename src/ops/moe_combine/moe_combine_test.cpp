// Tests of moe_combine.
#include "fathom/ops/moe_combine.hpp"

#include <cmath>

#include "ops/moe_combine/moe_combine_impl.hpp"
#include "ops/op_test.hpp"

namespace fathom {
namespace {

TEST(MoeCombine, HandComputed) {
  const Tensor y = tensor_of<float>(DType::f32, {3, 1}, {1, 10, 100});
  const Tensor slot_to_row = tensor_of<int>(DType::i32, {2, 2}, {2, 0, -1, 1});
  const Tensor weights = tensor_of<float>(DType::f32, {2, 2}, {0.5f, 2, 7, 3});
  Tensor out = poisoned(DType::f32, {2, 1});
  moe_combine({.y = y, .slot_to_row = slot_to_row, .weights = weights, .out = out}, test_context());
  expect_same_bytes(out, tensor_of<float>(DType::f32, {2, 1}, {52, 30}));
  moe_combine({.y = y, .slot_to_row = slot_to_row, .weights = weights, .out = out, .accumulate = true},
              test_context());
  expect_same_bytes(out, tensor_of<float>(DType::f32, {2, 1}, {104, 60}));
}

// Random slots; rows nobody names and slots of -1 hold NaN.
struct Case {
  Case(const MoeCombineProblem& problem, std::int64_t seed)
      : random(seed),
        y(poisoned(problem.y, {problem.rows, problem.dim})),
        slot_to_row(DType::i32, {problem.tokens, problem.top_k}),
        weights(random.normal(DType::f32, {problem.tokens, problem.top_k})) {
    for (std::int64_t i = 0; i < slot_to_row.count(); ++i) {
      const std::int64_t row = random.integer(-1, problem.rows - 1);
      slot_to_row.set(i, static_cast<double>(row));
      if (row < 0) weights.set(i, std::nan(""));
      for (std::int64_t d = 0; row >= 0 && d < problem.dim; ++d) {
        y.set(row * problem.dim + d, std::normal_distribution<double>()(random.engine()));
      }
    }
  }
  Random random;
  Tensor y, slot_to_row, weights;
};

TEST(MoeCombine, AgreesWithReference) {
  for (const MoeCombineProblem& problem :
       {MoeCombineProblem{.tokens = 1, .top_k = 8, .rows = 300, .dim = 7168},
        MoeCombineProblem{.tokens = 0, .rows = 9, .dim = 64},
        MoeCombineProblem{.tokens = 257, .top_k = 4, .rows = 2000, .dim = 256, .accumulate = true},
        MoeCombineProblem{.tokens = 5, .top_k = 3, .rows = 40, .dim = 1, .y = DType::bf16},
        MoeCombineProblem{
            .tokens = 9, .top_k = 6, .rows = 90, .dim = 1091, .y = DType::bf16, .out = DType::bf16},
        MoeCombineProblem{
            .tokens = 9, .top_k = 1, .rows = 90, .dim = 65, .out = DType::bf16, .accumulate = true},
        MoeCombineProblem{.tokens = 3, .top_k = 0, .rows = 1, .dim = 8, .accumulate = true}}) {
    SCOPED_TRACE(problem_string(problem));
    const Case c(problem, problem.dim);
    Random random(1);
    const Tensor got = random.normal(problem.out, {problem.tokens, problem.dim});
    Tensor expected(DType::f32, {problem.tokens, problem.dim});
    for (std::int64_t i = 0; i < got.count(); ++i) expected.set(i, got[i]);
    const auto args = [&](const Tensor& out) {
      return MoeCombineArgs{.y = c.y,
                            .slot_to_row = c.slot_to_row,
                            .weights = c.weights,
                            .out = out,
                            .accumulate = problem.accumulate};
    };
    moe_combine(args(got), test_context());
    moe_combine_ref({.tokens = problem.tokens,
                     .top_k = problem.top_k,
                     .rows = problem.rows,
                     .dim = problem.dim,
                     .y = problem.y,
                     .accumulate = problem.accumulate},
                    args(expected), test_context());
    expect_close(got, expected, {.relative = problem.out == DType::bf16 ? 0x1p-8 : 1e-5, .absolute = 1e-5});
  }
}

TEST(MoeCombine, ATokenWithoutExpertsIsZero) {
  const Tensor y = poisoned(DType::f32, {2, 300});
  const Tensor slot_to_row = tensor_of<int>(DType::i32, {1, 2}, {-1, -1});
  const Tensor weights = poisoned(DType::f32, {1, 2});
  Tensor out = poisoned(DType::f32, {1, 300});
  moe_combine({.y = y, .slot_to_row = slot_to_row, .weights = weights, .out = out}, test_context());
  for (std::int64_t d = 0; d < 300; ++d) EXPECT_EQ(out[d], 0);
}

TEST(MoeCombine, TokensDoNotDependOnOneAnother) {
  const MoeCombineProblem problem{.tokens = 60, .top_k = 6, .rows = 300, .dim = 2100};
  const Case c(problem, 3);
  Tensor together = poisoned(DType::f32, {60, 2100});
  Tensor alone = poisoned(DType::f32, {60, 2100});
  moe_combine({.y = c.y, .slot_to_row = c.slot_to_row, .weights = c.weights, .out = together},
              test_context(2));
  for (std::int64_t t = 0; t < 60; ++t) {
    moe_combine({.y = c.y,
                 .slot_to_row = c.slot_to_row.view().rows(t, t + 1),
                 .weights = c.weights.view().rows(t, t + 1),
                 .out = alone.view().rows(t, t + 1)},
                test_context(1));
  }
  expect_same_bytes(together, alone);
}

TEST(MoeCombine, RejectsBadArguments) {
  const Tensor y = poisoned(DType::f32, {3, 1});
  const Tensor slot_to_row = tensor_of<int>(DType::i32, {1, 2}, {2, 3});
  const Tensor weights = poisoned(DType::f32, {1, 2});
  Tensor out = poisoned(DType::f32, {1, 1});
  EXPECT_ERROR(
      InvalidArgument, "moe_combine: 'slot_to_row' must be in [-1,3), got 3 for slot 1 of token 0",
      moe_combine({.y = y, .slot_to_row = slot_to_row, .weights = weights, .out = out}, test_context()));
}

}  // namespace
}  // namespace fathom
