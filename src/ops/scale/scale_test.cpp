#include "fathom/ops/scale.hpp"

#include <cmath>

#include "ops/op_test.hpp"
#include "ops/scale/scale_impl.hpp"

namespace fathom {
namespace {

// [doc:begin differential]
// One product, rounded once: the double product rounded to float is the float product, so bytes must agree.
TEST(Scale, HasTheBytesOfTheReference) {
  for (const ScaleProblem& problem :
       {ScaleProblem{.rows = 1, .dim = 1}, ScaleProblem{.rows = 3, .dim = 7168, .dtype = DType::bf16},
        ScaleProblem{.rows = 0, .dim = 64}, ScaleProblem{.rows = 2, .dim = 0},
        ScaleProblem{.rows = 300, .dim = 515}}) {
    SCOPED_TRACE(problem_string(problem));
    Random random(problem.rows);
    const Tensor x = random.normal(problem.dtype, {problem.rows, problem.dim});
    const Tensor got = poisoned(problem.dtype, {problem.rows, problem.dim});
    const Tensor expected = poisoned(problem.dtype, {problem.rows, problem.dim});
    scale({.x = x, .out = got, .factor = 1.7f}, test_context());
    scale_ref(problem, {.x = x, .out = expected, .factor = 1.7f}, test_context());
    expect_same_bytes(got, expected);
  }
}
// [doc:end differential]

TEST(Scale, HandComputed) {
  const Tensor x = tensor_of<float>(DType::f32, {2, 2}, {1, -2, 0, 0.5});
  scale({.x = x, .out = x, .factor = -4}, test_context());  // in place
  expect_same_bytes(x, tensor_of<float>(DType::f32, {2, 2}, {-4, 8, -0.0f, -2}));
}

TEST(Scale, RowsDoNotDependOnOneAnother) {
  Random random(7);
  const Tensor x = random.normal(DType::f32, {64, 300});
  const Tensor together = poisoned(DType::f32, {64, 300});
  const Tensor alone = poisoned(DType::f32, {64, 300});
  scale({.x = x, .out = together, .factor = 0.3f}, test_context(2));
  for (std::int64_t r = 0; r < 64; ++r) {
    scale({.x = x.view().rows(r, r + 1), .out = alone.view().rows(r, r + 1), .factor = 0.3f},
          test_context(1));
  }
  expect_same_bytes(together, alone);
}

// [doc:begin errors]
TEST(Scale, RejectsBadArguments) {
  const Tensor x = poisoned(DType::f32, {4, 8});
  EXPECT_ERROR(InvalidArgument, "scale: 'out' must have shape [4,8], got [4,7]",
               scale({.x = x, .out = poisoned(DType::f32, {4, 7})}, test_context()));
  EXPECT_ERROR(InvalidArgument, "scale: 'out' must be f32, got bf16",
               scale({.x = x, .out = poisoned(DType::bf16, {4, 8})}, test_context()));
  EXPECT_ERROR(InvalidArgument, "scale: 'factor' must be finite, got inf",
               scale({.x = x, .out = x, .factor = INFINITY}, test_context()));
}
// [doc:end errors]

}  // namespace
}  // namespace fathom
