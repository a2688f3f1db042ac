// Tests of m_grouped_linear_f32.
#include "fathom/ops/m_grouped_linear_f32.hpp"

#include "fathom/ops/linear_f32.hpp"
#include "ops/grouped_test.hpp"
#include "ops/m_grouped_linear_f32/m_grouped_linear_f32_impl.hpp"

namespace fathom {
namespace {

std::span<const TensorView> b_scales(const GroupedCase& problem) {
  if (problem.b.view().dtype != DType::f8e4m3) return {};
  return problem.scales;
}

void call(const GroupedCase& problem, const TensorView& a, [[maybe_unused]] const TensorView& a_scale,
          const GroupedRows& rows, const TensorView& out, const Context& context) {
  m_grouped_linear_f32({.a = a, .b = problem.weights, .b_scale = b_scales(problem), .rows = rows, .out = out},
                       context);
}

void run(const GroupedCase& problem, const Context& context) {
  call(problem, problem.of_rows(problem.a), problem.of_rows(problem.a_scale), problem.rows(),
       problem.of_rows(problem.out), context);
}

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

TEST(MGroupedLinearF32, AgreesWithNaiveLoops) {
  std::int64_t seed = 1;
  for (const GroupedShape& shape : grouped_shapes()) {
    for (const auto& b : {DType::f32, DType::bf16, DType::f8e4m3}) {
      SCOPED_TRACE(testing::Message()
                   << to_string(shape.layout) << shape.rows << " " << shape.n << " " << shape.k);
      const GroupedCase problem(DType::f32, b, DType::f32, shape, 4, seed++);
      run(problem, test_context());
      problem.check(false, b == DType::f8e4m3);
    }
  }
}

TEST(MGroupedLinearF32, ManyMoreRowsThanExpected) {
  GroupedCase problem(DType::f32, DType::f8e4m3, DType::f32,
                      {GroupLayout::masked, 4096, 16, 128, {4001, 114, 0}}, 3, 5);
  GroupedRows rows = problem.rows();
  rows.expected_m = 114;
  call(problem, problem.of_rows(problem.a), problem.of_rows(problem.a_scale), rows,
       problem.of_rows(problem.out), test_context());
  problem.check(false, true);
}

TEST(MGroupedLinearF32, RowsDoNotDependOnOneAnother) {
  GroupedCase offsets(DType::f32, DType::f8e4m3, DType::f32,
                      {GroupLayout::offsets, 150, 200, 264, {1, 1, 2, 140, 149}}, 4, 6);
  check_rows_alone(offsets, call);
  GroupedCase masked(DType::f32, DType::f8e4m3, DType::f32, {GroupLayout::masked, 40, 96, 640, {7, 40, 0, 1}},
                     4, 7);
  check_rows_alone(masked, call);
}

TEST(MGroupedLinearF32, GivesTheBytesOfTheDenseProduct) {
  const GroupedCase problem(DType::f32, DType::f8e4m3, DType::f32,
                            {GroupLayout::offsets, 75, 136, 392, {0, 1, 5, 72, 75}}, 4, 8);
  run(problem, test_context());
  Tensor dense = poisoned(problem.out.view().dtype, {75, 136});
  for (std::size_t g = 0; g < 4; ++g) {
    const std::int64_t begin = problem.shape.index[g];
    const std::int64_t end = problem.shape.index[g + 1];
    linear_f32({.x = problem.a.view().rows(begin, end),
                .w = problem.weights[g],
                .w_scale = problem.scales[g],
                .out = dense.view().rows(begin, end)},
               test_context());
  }
  expect_same_bytes(problem.out, dense);
}

TEST(MGroupedLinearF32, GateAndUpMayBeHalvesOfOneBuffer) {
  const GroupedCase gate(DType::f32, DType::f8e4m3, DType::f32, {GroupLayout::offsets, 9, 24, 128, {0, 4, 9}},
                         2, 9);
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

TEST(MGroupedLinearF32, RejectsBadArguments) {
  const auto refused = [](const GroupedShape& shape, std::int64_t groups, const std::string& message) {
    const GroupedCase problem(DType::f32, DType::f8e4m3, DType::f32, shape, groups, 1);
    EXPECT_ERROR(InvalidArgument, "m_grouped_linear_f32: " + message, run(problem, test_context()));
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
  GroupedCase problem(DType::f32, DType::f8e4m3, DType::f32, {GroupLayout::offsets, 3, 4, 8, {0, 2, 3}}, 2,
                      1);
  problem.weights[1].shape[0] = 3;
  EXPECT_ERROR(InvalidArgument, "m_grouped_linear_f32: 'b' must have shape [4,8], got [3,8]",
               run(problem, test_context()));
  problem.weights.pop_back();
  EXPECT_ERROR(InvalidArgument, "m_grouped_linear_f32: 'offsets' must have shape [2], got [3]", [&] {
    problem.scales.pop_back();
    run(problem, test_context());
  }());
  GroupedRows both = problem.rows();
  both.masked_m = problem.index;
  EXPECT_ERROR(InvalidArgument,
               "m_grouped_linear_f32: 'rows' must give one of row_to_group, offsets and masked_m, got 2",
               call(problem, problem.a, problem.a_scale, both, problem.out, test_context()));
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
