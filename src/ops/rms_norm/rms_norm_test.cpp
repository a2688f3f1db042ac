#include "fathom/ops/rms_norm.hpp"

#include "ops/op_test.hpp"
#include "ops/rms_norm/rms_norm_impl.hpp"

namespace fathom {
namespace {

TEST(RmsNorm, AgreesWithReference) {
  for (const RmsNormProblem& problem :
       {RmsNormProblem{.tokens = 1, .dim = 256}, RmsNormProblem{.tokens = 5, .dim = 7168, .x = DType::bf16},
        RmsNormProblem{.tokens = 3, .dim = 1}, RmsNormProblem{.tokens = 7, .dim = 129, .out = DType::bf16},
        RmsNormProblem{.tokens = 0, .dim = 64},
        RmsNormProblem{.tokens = 300, .dim = 512, .weight = DType::f32}}) {
    SCOPED_TRACE(problem_string(problem));
    Random random(problem.dim);
    const Tensor x = random.normal(problem.x, {problem.tokens, problem.dim});
    const Tensor weight = random.normal(problem.weight, {problem.dim});
    Tensor got = poisoned(problem.out, {problem.tokens, problem.dim});
    Tensor expected = poisoned(DType::f32, {problem.tokens, problem.dim});
    rms_norm({.x = x, .weight = weight, .out = got}, test_context());
    rms_norm_ref(problem, {.x = x, .weight = weight, .out = expected}, test_context());
    expect_close(got, expected, {.relative = problem.out == DType::bf16 ? 0x1p-8 : 1e-5, .absolute = 1e-7});
  }
}

TEST(RmsNorm, HandComputed) {
  Tensor x = tensor_of<float>(DType::f32, {1, 2}, {3, 4});
  const Tensor weight = tensor_of<float>(DType::f32, {2}, {1, 2});
  rms_norm({.x = x, .weight = weight, .out = x, .epsilon = 12.5f},
           test_context());  // in place; mean square 12.5
  expect_close(x, tensor_of<float>(DType::f32, {1, 2}, {0.6f, 1.6f}), {.relative = 1e-6});
}

TEST(RmsNorm, RowsDoNotDependOnOneAnother) {
  Random random(7);
  const Tensor x = random.normal(DType::f32, {64, 300});
  const Tensor weight = random.normal(DType::f32, {300});
  Tensor together = poisoned(DType::f32, {64, 300});
  Tensor alone = poisoned(DType::f32, {64, 300});
  rms_norm({.x = x, .weight = weight, .out = together}, test_context(2));
  for (std::int64_t t = 0; t < 64; ++t) {
    rms_norm({.x = x.view().rows(t, t + 1), .weight = weight, .out = alone.view().rows(t, t + 1)},
             test_context(1));
  }
  expect_same_bytes(together, alone);
}

TEST(RmsNorm, RejectsBadArguments) {
  const Tensor x = poisoned(DType::f32, {4, 8});
  const Tensor weight = poisoned(DType::f32, {7});
  EXPECT_ERROR(InvalidArgument, "rms_norm: 'weight' must have shape [8], got [7]",
               rms_norm({.x = x, .weight = weight, .out = x}, test_context()));
  EXPECT_ERROR(InvalidArgument, "rms_norm: 'x' must be f32 or bf16, got i32",
               rms_norm({.x = poisoned(DType::i32, {4, 8}), .weight = weight, .out = x}, test_context()));
}

}  // namespace
}  // namespace fathom
