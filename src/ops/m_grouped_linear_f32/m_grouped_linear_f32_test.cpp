// Tests of m_grouped_linear_f32.
#include "fathom/ops/m_grouped_linear_f32.hpp"

#include "fathom/ops/linear_f32.hpp"
#include "ops/grouped_suite.hpp"

namespace fathom {
namespace {

std::span<const TensorView> b_scales(const GroupedCase& problem) {
  if (problem.b.view().dtype != DType::f8e4m3) return {};
  return problem.scales;
}

struct MGroupedLinearF32Op {
  static constexpr std::string_view name = "m_grouped_linear_f32";
  static constexpr DType kA = DType::f32;
  static constexpr DType kB = DType::f8e4m3;
  static constexpr DType kOut = DType::f32;
  static constexpr std::pair<DType, DType> kFormats[] = {
      {DType::f32, DType::f32}, {DType::bf16, DType::f32}, {DType::f8e4m3, DType::f32}};
  static constexpr bool kAScale = false;

  static void call(const GroupedCase& problem, const TensorView& a,
                   [[maybe_unused]] const TensorView& a_scale, const GroupedRows& rows, const TensorView& out,
                   const Context& context) {
    m_grouped_linear_f32(
        {.a = a, .b = problem.weights, .b_scale = b_scales(problem), .rows = rows, .out = out}, context);
  }
  static void dense(const GroupedCase& problem, std::size_t g, std::int64_t begin, std::int64_t end,
                    const Tensor& out, const Context& context) {
    linear_f32({.x = problem.a.view().rows(begin, end),
                .w = problem.weights[g],
                .w_scale = problem.scales[g],
                .out = out.view().rows(begin, end)},
               context);
  }
};
INSTANTIATE_TYPED_TEST_SUITE_P(MGroupedLinearF32, Grouped, MGroupedLinearF32Op);

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

TEST(MGroupedLinearF32, ScalesBelongToFp8Weights) {
  const GroupedCase problem(DType::f32, DType::bf16, DType::f32, {GroupLayout::offsets, 3, 4, 8, {0, 2, 3}},
                            2, 1);
  EXPECT_ERROR(InvalidArgument,
               "m_grouped_linear_f32: 'b_scale' must be given with f8e4m3 weights only, got bf16",
               m_grouped_linear_f32({.a = problem.a,
                                     .b = problem.weights,
                                     .b_scale = problem.scales,
                                     .rows = problem.rows(),
                                     .out = problem.out},
                                    test_context()));
}

}  // namespace
}  // namespace fathom
