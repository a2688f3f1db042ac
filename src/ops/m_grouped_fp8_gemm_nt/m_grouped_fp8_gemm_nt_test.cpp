// Tests of m_grouped_fp8_gemm_nt.
#include "fathom/ops/m_grouped_fp8_gemm_nt.hpp"

#include "ops/m_grouped_fp8_gemm_nt/m_grouped_fp8_gemm_nt_impl.hpp"
#include "ops/op_test.hpp"

namespace fathom {
namespace {

TEST(MGroupedFp8GemmNt, HandComputed) {
  const Tensor a = tensor_of<float>(DType::f8e4m3, {2, 2, 2}, {1, 2, 3, 4, 5, 6, 7, 8});
  const Tensor a_scale = tensor_of<float>(DType::f32, {2, 2, 1}, {1, 2, 3, 4});
  const Tensor b = tensor_of<float>(DType::f8e4m3, {2, 1, 2}, {1, 1, 2, -1});
  const Tensor b_scale = tensor_of<float>(DType::f32, {2, 1, 1}, {10, 0.5f});
  const Tensor masked_m = tensor_of<int>(DType::i32, {2}, {1, 2});
  Tensor out = tensor_of<float>(DType::f32, {2, 2, 1}, {-7, -7, -7, -7});
  const auto weights = split_groups(b);
  const auto scales = split_groups(b_scale);
  m_grouped_fp8_gemm_nt({.a = a,
                         .a_scale = a_scale,
                         .b = weights,
                         .b_scale = scales,
                         .rows = {.masked_m = masked_m, .expected_m = 1},
                         .out = out},
                        test_context());
  expect_same_bytes(out, tensor_of<float>(DType::f32, {2, 2, 1}, {30, -7, 6, 12}));
}

}  // namespace
}  // namespace fathom
