// Tests of sample.
#include "fathom/ops/sample.hpp"

#include "ops/op_test.hpp"
#include "ops/sample/sample_impl.hpp"

namespace fathom {
namespace {

TEST(Sample, GreedyTakesTheFirstOfTheLargest) {
  const Tensor logits = tensor_of<float>(DType::f32, {2, 4}, {1, 5, 5, 2, -9, -8, -7, -7});
  Tensor tokens = poisoned(DType::i32, {2});
  sample({.logits = logits, .tokens = tokens}, test_context());
  expect_same_bytes(tokens, tensor_of<int>(DType::i32, {2}, {1, 2}));
}

}  // namespace
}  // namespace fathom
