// Tests of m_grouped_bf16_gemm_nt.
#include "fathom/ops/m_grouped_bf16_gemm_nt.hpp"

#include "fathom/ops/bf16_gemm_nt.hpp"
#include "ops/grouped_suite.hpp"

namespace fathom {
namespace {

struct MGroupedBf16GemmNtOp {
  static constexpr std::string_view name = "m_grouped_bf16_gemm_nt";
  static constexpr DType kA = DType::bf16;
  static constexpr DType kB = DType::bf16;
  static constexpr DType kOut = DType::f32;
  static constexpr std::pair<DType, DType> kFormats[] = {{DType::bf16, DType::f32},
                                                         {DType::bf16, DType::bf16}};
  static constexpr bool kAScale = false;

  static void call(const GroupedCase& problem, const TensorView& a,
                   [[maybe_unused]] const TensorView& a_scale, const GroupedRows& rows, const TensorView& out,
                   const Context& context) {
    m_grouped_bf16_gemm_nt({.a = a, .b = problem.weights, .rows = rows, .out = out}, context);
  }
  static void dense(const GroupedCase& problem, std::size_t g, std::int64_t begin, std::int64_t end,
                    const Tensor& out, const Context& context) {
    bf16_gemm_nt(
        {.a = problem.a.view().rows(begin, end), .b = problem.weights[g], .out = out.view().rows(begin, end)},
        context);
  }
};
INSTANTIATE_TYPED_TEST_SUITE_P(MGroupedBf16GemmNt, Grouped, MGroupedBf16GemmNtOp);

TEST(MGroupedBf16GemmNt, HandComputed) {
  const Tensor a = tensor_of<float>(DType::bf16, {3, 2}, {1, 2, 3, 4, 5, 6});
  const Tensor b = tensor_of<float>(DType::bf16, {2, 1, 2}, {1, 1, 2, -1});
  const Tensor offsets = tensor_of<int>(DType::i32, {3}, {0, 1, 2});
  Tensor out = tensor_of<float>(DType::f32, {3, 1}, {-7, -7, -7});
  const auto weights = split_groups(b);
  m_grouped_bf16_gemm_nt({.a = a, .b = weights, .rows = {.offsets = offsets}, .out = out}, test_context());
  expect_same_bytes(out, tensor_of<float>(DType::f32, {3, 1}, {3, 2, -7}));
}

TEST(SplitGroups, KeepsStrides) {
  TensorView stacked = TensorView::contiguous(nullptr, DType::bf16, {3, 4, 5});
  stacked.stride = {100, 7, 1};
  const auto groups = split_groups(stacked);
  ASSERT_EQ(groups.size(), 3u);
  EXPECT_EQ(shape_string(groups[2]), "[4,5]");
  EXPECT_EQ(groups[2].step(0), 7);
  EXPECT_EQ(groups[2].as<std::byte>() - groups[0].as<std::byte>(), 400);
}

}  // namespace
}  // namespace fathom
