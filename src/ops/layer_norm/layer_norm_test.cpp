// Tests of layer_norm.
#include "fathom/ops/layer_norm.hpp"

#include "ops/layer_norm/layer_norm_impl.hpp"
#include "ops/op_test.hpp"

namespace fathom {
namespace {

TEST(LayerNorm, HandComputed) {
  Tensor x = tensor_of<float>(DType::f32, {1, 2}, {1, 5});  // mean 3, variance 4
  const Tensor weight = tensor_of<float>(DType::f32, {2}, {1, 2});
  const Tensor bias = tensor_of<float>(DType::f32, {2}, {10, 20});
  layer_norm({.x = x, .weight = weight, .bias = bias, .out = x, .epsilon = 12.0f}, test_context());
  expect_close(x, tensor_of<float>(DType::f32, {1, 2}, {9.5f, 21.0f}), {.relative = 1e-6});
}

TEST(LayerNorm, AgreesWithReference) {
  for (const LayerNormProblem& problem :
       {LayerNormProblem{}, LayerNormProblem{.tokens = 5, .dim = 7168, .x = DType::bf16},
        LayerNormProblem{.tokens = 3, .dim = 1},
        LayerNormProblem{.tokens = 7, .dim = 129, .out = DType::bf16},
        LayerNormProblem{.tokens = 0, .dim = 64},
        LayerNormProblem{.tokens = 300, .dim = 512, .weight = DType::f32}}) {
    SCOPED_TRACE(problem_string(problem));
    Random random(problem.dim);
    const Tensor x = random.normal(problem.x, {problem.tokens, problem.dim});
    const Tensor weight = random.normal(problem.weight, {problem.dim});
    const Tensor bias = random.normal(problem.weight, {problem.dim});
    Tensor got = poisoned(problem.out, {problem.tokens, problem.dim});
    Tensor expected = poisoned(DType::f32, {problem.tokens, problem.dim});
    layer_norm({.x = x, .weight = weight, .bias = bias, .out = got}, test_context());
    layer_norm_ref(problem, {.x = x, .weight = weight, .bias = bias, .out = expected}, test_context());
    expect_close(got, expected,
                 {.relative = problem.out == DType::bf16 ? 0x1p-8 : 1e-5,
                  .absolute = 1e-6 + 4e-9 * static_cast<double>(problem.dim)});
  }
}

TEST(LayerNorm, ALargeMeanDoesNotCancelTheVariance) {
  Random random(3);
  const Tensor x = random.normal(DType::f32, {4, 128});
  for (std::int64_t i = 0; i < x.count(); ++i) x.as<float>()[i] += 4096.0f;
  const Tensor weight = random.normal(DType::f32, {128});
  const Tensor bias = random.normal(DType::f32, {128});
  Tensor got = poisoned(DType::f32, {4, 128});
  Tensor expected = poisoned(DType::f32, {4, 128});
  layer_norm({.x = x, .weight = weight, .bias = bias, .out = got}, test_context());
  layer_norm_ref({.tokens = 4, .dim = 128}, {.x = x, .weight = weight, .bias = bias, .out = expected},
                 test_context());
  // The mean itself is only known to 4096 * 2^-24 per addition.
  expect_close(got, expected, {.relative = 1e-3, .absolute = 4e-3});
}

TEST(LayerNorm, RowsDoNotDependOnOneAnother) {
  Random random(7);
  const Tensor x = random.normal(DType::f32, {64, 300});
  const Tensor weight = random.normal(DType::f32, {300});
  const Tensor bias = random.normal(DType::f32, {300});
  Tensor together = poisoned(DType::f32, {64, 300});
  Tensor alone = poisoned(DType::f32, {64, 300});
  layer_norm({.x = x, .weight = weight, .bias = bias, .out = together}, test_context(2));
  for (std::int64_t t = 0; t < 64; ++t) {
    layer_norm(
        {.x = x.view().rows(t, t + 1), .weight = weight, .bias = bias, .out = alone.view().rows(t, t + 1)},
        test_context(1));
  }
  expect_same_bytes(together, alone);
}

TEST(LayerNorm, RejectsBadArguments) {
  const Tensor x = poisoned(DType::f32, {4, 8});
  const Tensor weight = poisoned(DType::f32, {8});
  EXPECT_ERROR(
      InvalidArgument, "layer_norm: 'bias' must have shape [8], got [7]",
      layer_norm({.x = x, .weight = weight, .bias = poisoned(DType::f32, {7}), .out = x}, test_context()));
  EXPECT_ERROR(
      InvalidArgument, "layer_norm: 'bias' must be f32, got bf16",
      layer_norm({.x = x, .weight = weight, .bias = poisoned(DType::bf16, {8}), .out = x}, test_context()));
  EXPECT_ERROR(
      InvalidArgument, "layer_norm: 'epsilon' must be positive",
      layer_norm({.x = x, .weight = weight, .bias = weight, .out = x, .epsilon = 0}, test_context()));
}

}  // namespace
}  // namespace fathom
