// Tests of moe_permute.
#include "fathom/ops/moe_permute.hpp"

#include "ops/moe_permute/moe_permute_impl.hpp"
#include "ops/op_test.hpp"

namespace fathom {
namespace {

TEST(MoePermute, HandComputedContiguous) {
  const Tensor ids = tensor_of<int>(DType::i32, {3, 2}, {2, 0, -1, 2, 0, 2});
  const Tensor x = tensor_of<float>(DType::f32, {3, 1}, {10, 20, 30});
  Tensor out = poisoned(DType::f32, {9, 1});
  for (std::int64_t i = 0; i < 9; ++i) out.set(i, -1);
  Tensor slot_to_row = poisoned(DType::i32, {3, 2});
  Tensor row_to_group = poisoned(DType::i32, {9});
  Tensor offsets = poisoned(DType::i32, {4});
  Tensor counts = poisoned(DType::i32, {3});
  moe_permute({.ids = ids,
               .x = x,
               .groups = 3,
               .alignment = 4,
               .out = out,
               .slot_to_row = slot_to_row,
               .row_to_group = row_to_group,
               .offsets = offsets,
               .masked_m = counts},
              test_context());
  expect_same_bytes(slot_to_row, tensor_of<int>(DType::i32, {3, 2}, {4, 0, -1, 5, 1, 6}));
  expect_same_bytes(row_to_group, tensor_of<int>(DType::i32, {9}, {0, 0, -1, -1, 2, 2, 2, -1, -1}));
  expect_same_bytes(offsets, tensor_of<int>(DType::i32, {4}, {0, 4, 4, 8}));
  expect_same_bytes(counts, tensor_of<int>(DType::i32, {3}, {2, 0, 3}));
  expect_same_bytes(out, tensor_of<float>(DType::f32, {9, 1}, {10, 30, -1, -1, 10, 20, 30, -1, -1}));
}

TEST(MoePermute, HandComputedMasked) {
  const Tensor ids = tensor_of<int>(DType::i32, {2, 2}, {1, 0, -1, 1});
  const Tensor x = tensor_of<float>(DType::f32, {2, 1}, {10, 20});
  const Tensor x_scale = tensor_of<float>(DType::f32, {2, 1}, {1, 2});
  Tensor out = tensor_of<float>(DType::f32, {2, 2, 1}, {-1, -1, -1, -1});
  Tensor out_scale = tensor_of<float>(DType::f32, {2, 2, 1}, {-1, -1, -1, -1});
  Tensor slot_to_row = poisoned(DType::i32, {2, 2});
  Tensor masked_m = poisoned(DType::i32, {2});
  moe_permute({.ids = ids,
               .x = x,
               .x_scale = x_scale,
               .groups = 2,
               .out = out,
               .out_scale = out_scale,
               .slot_to_row = slot_to_row,
               .masked_m = masked_m},
              test_context());
  expect_same_bytes(slot_to_row, tensor_of<int>(DType::i32, {2, 2}, {2, 0, -1, 3}));
  expect_same_bytes(masked_m, tensor_of<int>(DType::i32, {2}, {1, 2}));
  expect_same_bytes(out, tensor_of<float>(DType::f32, {2, 2, 1}, {10, -1, 10, 20}));
  expect_same_bytes(out_scale, tensor_of<float>(DType::f32, {2, 2, 1}, {1, -1, 1, 2}));
}

TEST(MoePermute, RejectsBadArguments) {
  const Tensor ids = tensor_of<int>(DType::i32, {2, 2}, {1, 0, 1, 2});
  const Tensor x = poisoned(DType::bf16, {2, 8});
  Tensor out = poisoned(DType::bf16, {3, 8});
  Tensor slot_to_row = poisoned(DType::i32, {2, 2});
  EXPECT_ERROR(
      InvalidArgument, "moe_permute: 'ids' must be in [-1,2), got 2 for slot 1 of token 1",
      moe_permute({.ids = ids, .x = x, .groups = 2, .out = out, .slot_to_row = slot_to_row}, test_context()));
  EXPECT_ERROR(
      InvalidArgument, "moe_permute: 'out' must have 4 rows, got [3,8]",
      moe_permute({.ids = ids, .x = x, .groups = 3, .out = out, .slot_to_row = slot_to_row}, test_context()));
}

}  // namespace
}  // namespace fathom
