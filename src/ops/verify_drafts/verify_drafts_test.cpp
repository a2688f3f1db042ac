// Tests of verify_drafts.
#include "fathom/ops/verify_drafts.hpp"

#include "ops/op_test.hpp"
#include "ops/verify_drafts/verify_drafts_impl.hpp"

namespace fathom {
namespace {

TEST(VerifyDrafts, GreedyFollowsTheLargestLogits) {
  // Rows choose 2, 0, 1.
  const Tensor row = tensor_of<float>(DType::f32, {1, 3, 3}, {0, 1, 2, 3, 0, 1, 0, 5, 5});
  for (const auto& [first, second, count, next] :
       {std::tuple(2, 0, 2, 1), std::tuple(2, 1, 1, 0), std::tuple(0, 0, 0, 2), std::tuple(-1, 0, 0, 2)}) {
    const Tensor drafts = tensor_of<int>(DType::i32, {1, 2}, {first, second});
    Tensor accepted = poisoned(DType::i32, {1});
    Tensor next_token = poisoned(DType::i32, {1});
    verify_drafts({.logits = row, .drafts = drafts, .accepted = accepted, .next_token = next_token},
                  test_context());
    EXPECT_EQ(accepted[0], count);
    EXPECT_EQ(next_token[0], next);
  }
}

}  // namespace
}  // namespace fathom
