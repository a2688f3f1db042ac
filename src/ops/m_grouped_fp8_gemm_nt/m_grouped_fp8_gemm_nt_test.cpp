// Tests of m_grouped_fp8_gemm_nt.
#include "fathom/ops/m_grouped_fp8_gemm_nt.hpp"

#include "fathom/ops/fp8_gemm_nt.hpp"
#include "ops/grouped_suite.hpp"

namespace fathom {
namespace {

struct MGroupedFp8GemmNtOp {
  static constexpr std::string_view name = "m_grouped_fp8_gemm_nt";
  static constexpr DType kA = DType::f8e4m3;
  static constexpr DType kB = DType::f8e4m3;
  static constexpr DType kOut = DType::f32;
  static constexpr std::pair<DType, DType> kFormats[] = {{DType::f8e4m3, DType::f32},
                                                         {DType::f8e4m3, DType::bf16}};
  static constexpr bool kAScale = true;

  static void call(const GroupedCase& problem, const TensorView& a,
                   [[maybe_unused]] const TensorView& a_scale, const GroupedRows& rows, const TensorView& out,
                   const Context& context) {
    m_grouped_fp8_gemm_nt({.a = a,
                           .a_scale = a_scale,
                           .b = problem.weights,
                           .b_scale = problem.scales,
                           .rows = rows,
                           .out = out},
                          context);
  }
  static void dense(const GroupedCase& problem, std::size_t g, std::int64_t begin, std::int64_t end,
                    const Tensor& out, const Context& context) {
    fp8_gemm_nt({.a = problem.a.view().rows(begin, end),
                 .a_scale = problem.a_scale.view().rows(begin, end),
                 .b = problem.weights[g],
                 .b_scale = problem.scales[g],
                 .out = out.view().rows(begin, end)},
                context);
  }
};
INSTANTIATE_TYPED_TEST_SUITE_P(MGroupedFp8GemmNt, Grouped, MGroupedFp8GemmNtOp);

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

TEST(MGroupedFp8GemmNt, ReadsPackedAndColumnMajorScales) {
  GroupedCase problem(DType::f8e4m3, DType::f8e4m3, DType::f32, {GroupLayout::masked, 6, 20, 700, {6, 1, 4}},
                      3, 3);
  Tensor packed = poisoned(DType::i32, {3, 2, 6});   // [groups, words, rows], seen as [groups, rows, words]
  Tensor columns = poisoned(DType::f32, {3, 6, 6});  // [groups, k groups, rows]
  for (std::int64_t r = 0; r < 18; ++r) {
    for (std::int64_t c = 0; c < 6; ++c) {
      const auto exponent = static_cast<int>(problem.random.integer(120, 134));
      problem.a_scale.set(r * 6 + c, std::ldexp(1.0, exponent - 127));
      columns.set(r / 6 * 36 + c * 6 + r % 6, std::ldexp(1.0, exponent - 127));
      packed.as<std::uint8_t>()[(r / 6 * 12 + c / 4 * 6 + r % 6) * 4 + c % 4] =
          static_cast<std::uint8_t>(exponent);
    }
  }
  MGroupedFp8GemmNtOp::call(problem, problem.of_rows(problem.a), problem.of_rows(problem.a_scale),
                            problem.rows(), problem.of_rows(problem.out), test_context());
  Tensor got = poisoned(DType::f32, {18, 20});
  for (const bool pack : {true, false}) {
    TensorView scale = pack ? packed : columns;
    std::swap(scale.shape[1], scale.shape[2]);
    std::swap(scale.stride[1], scale.stride[2]);
    MGroupedFp8GemmNtOp::call(problem, problem.of_rows(problem.a), scale, problem.rows(),
                              problem.of_rows(got), test_context());
    expect_same_bytes(got, problem.out);
    for (std::int64_t i = 0; i < got.count(); ++i) got.as<std::int32_t>()[i] = -1;
  }
}

}  // namespace
}  // namespace fathom
