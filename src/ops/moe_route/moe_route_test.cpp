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
