// Tests of m_grouped_bf16_gemm_nt.
#include "fathom/ops/m_grouped_bf16_gemm_nt.hpp"

#include "ops/m_grouped_bf16_gemm_nt/m_grouped_bf16_gemm_nt_impl.hpp"
#include "ops/op_test.hpp"

namespace fathom {
namespace {

TEST(MGroupedBf16GemmNt, HandComputed) {
  const Tensor a = tensor_of<float>(DType::bf16, {3, 2}, {1, 2, 3, 4, 5, 6});
  const Tensor b = tensor_of<float>(DType::bf16, {2, 1, 2}, {1, 1, 2, -1});
  const Tensor offsets = tensor_of<int>(DType::i32, {3}, {0, 1, 2});
  Tensor out = tensor_of<float>(DType::f32, {3, 1}, {-7, -7, -7});
  const auto weights = split_groups(b);
  m_grouped_bf16_gemm_nt({.a = a, .b = weights, .rows = {.offsets = offsets}, .out = out}, test_context());
  expect_same_bytes(out, tensor_of<float>(DType::f32, {3, 1}, {3, 2, -7}));
}

}  // namespace
}  // namespace fathom
