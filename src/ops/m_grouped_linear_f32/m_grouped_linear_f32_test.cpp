// Tests of m_grouped_linear_f32.
#include "fathom/ops/m_grouped_linear_f32.hpp"

#include "ops/m_grouped_linear_f32/m_grouped_linear_f32_impl.hpp"
#include "ops/op_test.hpp"

namespace fathom {
namespace {

TEST(MGroupedLinearF32, HandComputed) {
  const Tensor a = tensor_of<float>(DType::f32, {3, 2}, {1, 2, 3, 4, 5, 6});
  const Tensor b = tensor_of<float>(DType::f8e4m3, {2, 1, 2}, {1, 1, 2, -1});
  const Tensor b_scale = tensor_of<float>(DType::f32, {2, 1, 1}, {10, 0.5f});
  const Tensor row_to_group = tensor_of<int>(DType::i32, {3}, {1, -1, 0});
  Tensor out = tensor_of<float>(DType::f32, {3, 1}, {-7, -7, -7});
  const auto weights = split_groups(b);
  const auto scales = split_groups(b_scale);
  m_grouped_linear_f32(
      {.a = a, .b = weights, .b_scale = scales, .rows = {.row_to_group = row_to_group}, .out = out},
      test_context());
  expect_same_bytes(out, tensor_of<float>(DType::f32, {3, 1}, {0, -7, 110}));
}

}  // namespace
}  // namespace fathom
