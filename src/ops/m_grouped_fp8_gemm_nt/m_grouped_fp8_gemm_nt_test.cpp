// Tests of m_grouped_fp8_gemm_nt.
#include "fathom/ops/m_grouped_fp8_gemm_nt.hpp"

#include "fathom/ops/fp8_gemm_nt.hpp"
#include "ops/grouped_test.hpp"
#include "ops/m_grouped_fp8_gemm_nt/m_grouped_fp8_gemm_nt_impl.hpp"

namespace fathom {
namespace {

void call(const GroupedCase& problem, const TensorView& a, [[maybe_unused]] const TensorView& a_scale,
          const GroupedRows& rows, const TensorView& out, const Context& context) {
  m_grouped_fp8_gemm_nt(
      {.a = a, .a_scale = a_scale, .b = problem.weights, .b_scale = problem.scales, .rows = rows, .out = out},
      context);
}

void run(const GroupedCase& problem, const Context& context) {
  call(problem, problem.of_rows(problem.a), problem.of_rows(problem.a_scale), problem.rows(),
       problem.of_rows(problem.out), context);
}

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

TEST(MGroupedFp8GemmNt, AgreesWithNaiveLoops) {
  std::int64_t seed = 1;
  for (const GroupedShape& shape : grouped_shapes()) {
    for (const auto& out : {DType::f32, DType::bf16}) {
      SCOPED_TRACE(testing::Message()
                   << to_string(shape.layout) << shape.rows << " " << shape.n << " " << shape.k);
      const GroupedCase problem(DType::f8e4m3, DType::f8e4m3, out, shape, 4, seed++);
      run(problem, test_context());
      problem.check(true, true);
    }
  }
}

TEST(MGroupedFp8GemmNt, ManyMoreRowsThanExpected) {
  GroupedCase problem(DType::f8e4m3, DType::f8e4m3, DType::f32,
                      {GroupLayout::masked, 4096, 16, 128, {4001, 114, 0}}, 3, 5);
  GroupedRows rows = problem.rows();
  rows.expected_m = 114;
  call(problem, problem.of_rows(problem.a), problem.of_rows(problem.a_scale), rows,
       problem.of_rows(problem.out), test_context());
  problem.check(true, true);
}

TEST(MGroupedFp8GemmNt, RowsDoNotDependOnOneAnother) {
  GroupedCase offsets(DType::f8e4m3, DType::f8e4m3, DType::f32,
                      {GroupLayout::offsets, 150, 200, 264, {1, 1, 2, 140, 149}}, 4, 6);
  check_rows_alone(offsets, call);
  GroupedCase masked(DType::f8e4m3, DType::f8e4m3, DType::f32,
                     {GroupLayout::masked, 40, 96, 640, {7, 40, 0, 1}}, 4, 7);
  check_rows_alone(masked, call);
}

TEST(MGroupedFp8GemmNt, GivesTheBytesOfTheDenseProduct) {
  const GroupedCase problem(DType::f8e4m3, DType::f8e4m3, DType::f32,
                            {GroupLayout::offsets, 75, 136, 392, {0, 1, 5, 72, 75}}, 4, 8);
  run(problem, test_context());
  Tensor dense = poisoned(problem.out.view().dtype, {75, 136});
  for (std::size_t g = 0; g < 4; ++g) {
    const std::int64_t begin = problem.shape.index[g];
    const std::int64_t end = problem.shape.index[g + 1];
    fp8_gemm_nt({.a = problem.a.view().rows(begin, end),
                 .a_scale = problem.a_scale.view().rows(begin, end),
                 .b = problem.weights[g],
                 .b_scale = problem.scales[g],
                 .out = dense.view().rows(begin, end)},
                test_context());
  }
  expect_same_bytes(problem.out, dense);
}

TEST(MGroupedFp8GemmNt, GateAndUpMayBeHalvesOfOneBuffer) {
  const GroupedCase gate(DType::f8e4m3, DType::f8e4m3, DType::f32,
                         {GroupLayout::offsets, 9, 24, 128, {0, 4, 9}}, 2, 9);
  const Tensor both = poisoned(DType::f32, {9, 48});
  TensorView half = both;
  half.shape[1] = 24;
  call(gate, gate.a, gate.a_scale, gate.rows(), half, test_context());
  run(gate, test_context());
  expect_same_bytes(half, gate.out);
  for (std::int64_t r = 0; r < 9; ++r) {
    for (std::int64_t j = 24; j < 48; ++j) EXPECT_TRUE(std::isnan(both[r * 48 + j]));
  }
}

TEST(MGroupedFp8GemmNt, RejectsBadArguments) {
  const auto refused = [](const GroupedShape& shape, std::int64_t groups, const std::string& message) {
    const GroupedCase problem(DType::f8e4m3, DType::f8e4m3, DType::f32, shape, groups, 1);
    EXPECT_ERROR(InvalidArgument, "m_grouped_fp8_gemm_nt: " + message, run(problem, test_context()));
  };
  refused({GroupLayout::contiguous, 3, 4, 8, {0, 2, -1}}, 2,
          "'row_to_group' must be in [-1,1], got 2 at row 1");
  refused({GroupLayout::contiguous, 3, 4, 8, {0, -2, -1}}, 2,
          "'row_to_group' must be in [-1,1], got -2 at row 1");
  refused({GroupLayout::offsets, 3, 4, 8, {0, 2, 1}}, 2,
          "'offsets' must ascend within [0,3], got 1 at group 2");
  refused({GroupLayout::offsets, 3, 4, 8, {0, 2, 4}}, 2,
          "'offsets' must ascend within [0,3], got 4 at group 2");
  refused({GroupLayout::offsets, 3, 4, 8, {-1, 2, 3}}, 2,
          "'offsets' must ascend within [0,3], got -1 at group 0");
  refused({GroupLayout::masked, 3, 4, 8, {2, 4}}, 2, "'masked_m' must be in [0,3], got 4 for group 1");
  GroupedCase problem(DType::f8e4m3, DType::f8e4m3, DType::f32, {GroupLayout::offsets, 3, 4, 8, {0, 2, 3}}, 2,
                      1);
  problem.weights[1].shape[0] = 3;
  EXPECT_ERROR(InvalidArgument, "m_grouped_fp8_gemm_nt: 'b' must have shape [4,8], got [3,8]",
               run(problem, test_context()));
  problem.weights.pop_back();
  EXPECT_ERROR(InvalidArgument, "m_grouped_fp8_gemm_nt: 'offsets' must have shape [2], got [3]", [&] {
    problem.scales.pop_back();
    run(problem, test_context());
  }());
  GroupedRows both = problem.rows();
  both.masked_m = problem.index;
  EXPECT_ERROR(InvalidArgument,
               "m_grouped_fp8_gemm_nt: 'rows' must give one of row_to_group, offsets and masked_m, got 2",
               call(problem, problem.a, problem.a_scale, both, problem.out, test_context()));
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
  run(problem, test_context());
  Tensor got = poisoned(DType::f32, {18, 20});
  for (const bool pack : {true, false}) {
    TensorView scale = pack ? packed : columns;
    std::swap(scale.shape[1], scale.shape[2]);
    std::swap(scale.stride[1], scale.stride[2]);
    call(problem, problem.of_rows(problem.a), scale, problem.rows(), problem.of_rows(got), test_context());
    expect_same_bytes(got, problem.out);
    for (std::int64_t i = 0; i < got.count(); ++i) got.as<std::int32_t>()[i] = -1;
  }
}

}  // namespace
}  // namespace fathom
