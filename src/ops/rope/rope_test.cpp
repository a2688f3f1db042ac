// Tests of rope and of its table.
#include "fathom/ops/rope.hpp"

#include <cmath>

#include "ops/op_test.hpp"
#include "ops/rope/rope_impl.hpp"

namespace fathom {
namespace {

TEST(Rope, QuarterTurn) {
  const Tensor table = tensor_of<float>(DType::f32, {2, 4}, {1, 1, 0, 0, 0, 0, 1, 1});  // no turn; 90 degrees
  const Tensor position = tensor_of<int>(DType::i32, {1}, {1});
  Tensor x = tensor_of<float>(DType::f32, {1, 1, 6}, {9, 1, 2, 3, 4, 9});
  rope({.x = x, .positions = position, .cos_sin = table, .offset = 1, .style = RopeStyle::interleaved},
       test_context());
  expect_same_bytes(x, tensor_of<float>(DType::f32, {1, 1, 6}, {9, -2, 1, -4, 3, 9}));
  Tensor y = tensor_of<float>(DType::f32, {1, 1, 6}, {9, 1, 2, 3, 4, 9});
  rope({.x = y, .positions = position, .cos_sin = table, .offset = 1, .style = RopeStyle::half_split},
       test_context());
  expect_same_bytes(y, tensor_of<float>(DType::f32, {1, 1, 6}, {9, -3, -4, 1, 2, 9}));
}

TEST(Rope, RejectsBadArguments) {
  const Tensor table = poisoned(DType::f32, {16, 4});
  const Tensor x = poisoned(DType::f32, {2, 1, 6});
  const Tensor positions = tensor_of<int>(DType::i32, {2}, {3, 16});
  EXPECT_ERROR(InvalidArgument, "rope: 'positions' must be in [0,16), got 16 at token 1",
               rope({.x = x, .positions = positions, .cos_sin = table}, test_context()));
  EXPECT_ERROR(InvalidArgument, "rope: 'offset' must leave room for 4 of 6 elements, got 3",
               rope({.x = x, .positions = positions, .cos_sin = table, .offset = 3}, test_context()));
  EXPECT_ERROR(InvalidArgument, "make_rope_table: 'dim' must be positive and even, got 7",
               make_rope_table({.dim = 7}, 1));
}

}  // namespace
}  // namespace fathom
