// Tests of moe_route.
#include "fathom/ops/moe_route.hpp"

#include <cmath>
#include <limits>

#include "ops/moe_route/moe_route_impl.hpp"
#include "ops/op_test.hpp"

namespace fathom {
namespace {

// logits whose sigmoids are the given scores
Tensor logits_of(std::initializer_list<std::int64_t> shape, const std::vector<double>& scores) {
  Tensor logits(DType::f32, shape);
  for (std::size_t i = 0; i < scores.size(); ++i) {
    logits.set(static_cast<std::int64_t>(i), std::log(scores[i] / (1 - scores[i])));
  }
  return logits;
}

TEST(MoeRoute, HandComputed) {
  // Two groups of three: values 0.9 + 0.1 and 0.8 + 0.7, so that the best single expert is left out.
  const Tensor logits = logits_of({1, 6}, {0.9, 0.1, 0.05, 0.8, 0.7, 0.6});
  Tensor ids = poisoned(DType::i32, {1, 2});
  Tensor weights = poisoned(DType::f32, {1, 2});
  moe_route(
      {.logits = logits, .n_group = 2, .topk_group = 1, .routed_scaling = 3, .ids = ids, .weights = weights},
      test_context());
  expect_same_bytes(ids, tensor_of<int>(DType::i32, {1, 2}, {3, 4}));
  expect_close(weights, tensor_of<float>(DType::f32, {1, 2}, {1.6f, 1.4f}), {.relative = 1e-6});
  // The bias moves the choice, not the weights.
  const Tensor bias = tensor_of<float>(DType::f32, {6}, {0, 0, 0, 0, 0, 1});
  moe_route({.logits = logits,
             .correction_bias = bias,
             .n_group = 2,
             .topk_group = 1,
             .renormalize = false,
             .ids = ids,
             .weights = weights},
            test_context());
  expect_same_bytes(ids, tensor_of<int>(DType::i32, {1, 2}, {5, 3}));
  expect_close(weights, tensor_of<float>(DType::f32, {1, 2}, {0.6f, 0.8f}), {.relative = 1e-6});
}

struct Routed {
  Tensor ids;
  Tensor weights;
};

Routed route(const MoeRouteProblem& problem, const Tensor& logits, const Tensor& bias,
             const Context& context) {
  Routed result{poisoned(DType::i32, {problem.tokens, problem.top_k}),
                poisoned(DType::f32, {problem.tokens, problem.top_k})};
  moe_route({.logits = logits,
             .correction_bias = problem.bias ? bias.view() : TensorView{},
             .n_group = problem.n_group,
             .topk_group = problem.topk_group,
             .scoring = problem.scoring,
             .renormalize = problem.renormalize,
             .routed_scaling = 2.5f,
             .ids = result.ids,
             .weights = result.weights},
            context);
  return result;
}

TEST(MoeRoute, AgreesWithReference) {
  for (const MoeRouteProblem& problem :
       {MoeRouteProblem{.tokens = 300},
        MoeRouteProblem{.tokens = 5, .experts = 16, .n_group = 4, .topk_group = 2, .top_k = 4},
        MoeRouteProblem{.tokens = 9, .experts = 7, .n_group = 1, .topk_group = 1, .top_k = 7, .bias = false},
        MoeRouteProblem{.tokens = 20, .experts = 64, .n_group = 64, .topk_group = 9, .top_k = 9},
        MoeRouteProblem{.tokens = 40,
        .experts = 160,
        .n_group = 8,
        .topk_group = 3,
        .top_k = 6,
        .scoring = RouterScoring::softmax,
        .bias = false,
        .renormalize = false},
        MoeRouteProblem{.tokens = 4, .experts = 1028, .n_group = 2, .topk_group = 1, .top_k = 20},
        MoeRouteProblem{.tokens = 0},
        MoeRouteProblem{.tokens = 3, .experts = 1, .n_group = 1, .topk_group = 1, .top_k = 1}}) {
    SCOPED_TRACE(problem_string(problem));
    Random random(problem.experts + problem.tokens);
    const Tensor logits = random.normal(DType::f32, {problem.tokens, problem.experts}, 2);
    const Tensor bias = random.normal(DType::f32, {problem.experts}, 0.1);
    const Routed got = route(problem, logits, bias, test_context());
    const Routed expected = route(problem, logits, bias, forced_context("ref:any"));
    expect_same_bytes(got.ids, expected.ids);
    expect_close(got.weights, expected.weights, {.relative = 2e-6});
  }
}

TEST(MoeRoute, TiesGoToTheLowerExpertAndGroup) {
  const Tensor logits = tensor_of<float>(DType::f32, {1, 12}, {1, 1, 0, 1, 0, 1, 1, 1, 0, 0, 0, 0});
  const MoeRouteProblem problem{
      .tokens = 1, .experts = 12, .n_group = 4, .topk_group = 2, .top_k = 4, .bias = false};
  const Routed got = route(problem, logits, logits, test_context());
  expect_same_bytes(got.ids, tensor_of<int>(DType::i32, {1, 4}, {0, 1, 3, 5}));
}

TEST(MoeRoute, ANegativeChoiceOfAChosenGroupWinsOverOtherGroups) {
  // All choices are negative; group 1 has the better pair.
  const Tensor logits = tensor_of<float>(DType::f32, {1, 6}, {0, -9, -9, 0, 0, -9});
  const Tensor bias = tensor_of<float>(DType::f32, {6}, {-3, -3, -3, -3, -3, -3});
  const MoeRouteProblem problem{.tokens = 1, .experts = 6, .n_group = 2, .topk_group = 1, .top_k = 3};
  expect_same_bytes(route(problem, logits, bias, test_context()).ids,
                    tensor_of<int>(DType::i32, {1, 3}, {3, 4, 5}));
}

TEST(MoeRoute, NanAndInfinityStillGiveDistinctExperts) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  const Tensor logits = tensor_of<float>(DType::f32, {3, 6},
                                         {nan, 1, nan, nan, nan, 2,      // mixed
                                          nan, nan, nan, nan, nan, nan,  // all
                                          infinity, -infinity, 0, 0, 0, -100});
  const Tensor bias = tensor_of<float>(DType::f32, {6}, {0, 0, 0, 0, 0, 0});
  const MoeRouteProblem problem{.tokens = 3, .experts = 6, .n_group = 2, .topk_group = 2, .top_k = 4};
  for (const Context* context : {&test_context(), &forced_context("ref:any")}) {
    const Routed got = route(problem, logits, bias, *context);
    expect_same_bytes(got.ids, tensor_of<int>(DType::i32, {3, 4}, {5, 1, 0, 2, 0, 1, 2, 3, 0, 2, 3, 4}));
    EXPECT_NEAR(got.weights[8], 2.5 / 2.5, 1e-6);  // 1 / (1 + 3 * 0.5)
  }
}

TEST(MoeRoute, TokensDoNotDependOnOneAnother) {
  const MoeRouteProblem problem{.tokens = 100};
  Random random(2);
  const Tensor logits = random.normal(DType::f32, {100, 256}, 2);
  const Tensor bias = random.normal(DType::f32, {256}, 0.1);
  const Routed together = route(problem, logits, bias, test_context(2));
  for (std::int64_t t = 0; t < 100; ++t) {
    Tensor one(DType::f32, {1, 256});
    for (std::int64_t e = 0; e < 256; ++e) one.set(e, logits[t * 256 + e]);
    const Routed alone = route({.tokens = 1}, one, bias, test_context(1));
    expect_same_bytes(alone.ids, together.ids.view().rows(t, t + 1));
    expect_same_bytes(alone.weights, together.weights.view().rows(t, t + 1));
  }
}

TEST(MoeRoute, RejectsBadArguments) {
  const Tensor logits = poisoned(DType::f32, {2, 8});
  Tensor ids = poisoned(DType::i32, {2, 5});
  Tensor weights = poisoned(DType::f32, {2, 5});
  EXPECT_ERROR(InvalidArgument, "moe_route: 'n_group' must divide the 8 experts, got 3",
               moe_route({.logits = logits, .n_group = 3, .ids = ids, .weights = weights}, test_context()));
  EXPECT_ERROR(InvalidArgument,
               "moe_route: 'top_k' must be at most the 4 experts of the chosen groups, got 5",
               moe_route({.logits = logits, .n_group = 4, .topk_group = 2, .ids = ids, .weights = weights},
                         test_context()));
  EXPECT_ERROR(InvalidArgument, "moe_route: 'topk_group' must be in [1,4], got 5",
               moe_route({.logits = logits, .n_group = 4, .topk_group = 5, .ids = ids, .weights = weights},
                         test_context()));
}

}  // namespace
}  // namespace fathom
