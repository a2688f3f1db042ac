// Tests of moe_combine.
#include "fathom/ops/moe_combine.hpp"

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
