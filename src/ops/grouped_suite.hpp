// The tests that every grouped matrix product passes. An op's traits give: name; kA, kB and kOut, the dtypes
// of most tests; kFormats, the (b, out) pairs to compare with naive loops; kAScale and whether b has scales;
// call(), the op; dense(), its dense counterpart on one group.
#pragma once
#include <string>

#include "ops/grouped_test.hpp"

namespace fathom {

template <class Op>
class Grouped : public testing::Test {
 public:
  static GroupedCase make(const GroupedShape& shape, std::int64_t groups, std::int64_t seed) {
    return GroupedCase(Op::kA, Op::kB, Op::kOut, shape, groups, seed);
  }
  static void run(const GroupedCase& problem, const Context& context) {
    Op::call(problem, problem.of_rows(problem.a), problem.of_rows(problem.a_scale), problem.rows(),
             problem.of_rows(problem.out), context);
  }
};

TYPED_TEST_SUITE_P(Grouped);

TYPED_TEST_P(Grouped, AgreesWithNaiveLoops) {
  std::int64_t seed = 1;
  for (const GroupedShape& shape : grouped_shapes()) {
    for (const auto& [b, out] : TypeParam::kFormats) {
      SCOPED_TRACE(testing::Message()
                   << to_string(shape.layout) << shape.rows << " " << shape.n << " " << shape.k);
      const GroupedCase problem(TypeParam::kA, b, out, shape, 4, seed++);
      this->run(problem, test_context());
      problem.check(TypeParam::kAScale, b == DType::f8e4m3);
    }
  }
}

TYPED_TEST_P(Grouped, ManyMoreRowsThanExpected) {
  const GroupedCase problem = this->make({GroupLayout::masked, 4096, 16, 128, {4001, 114, 0}}, 3, 5);
  GroupedRows rows = problem.rows();
  rows.expected_m = 114;
  TypeParam::call(problem, problem.of_rows(problem.a), problem.of_rows(problem.a_scale), rows,
                  problem.of_rows(problem.out), test_context());
  problem.check(TypeParam::kAScale, TypeParam::kB == DType::f8e4m3);
}

TYPED_TEST_P(Grouped, RowsDoNotDependOnOneAnother) {
  GroupedCase offsets = this->make({GroupLayout::offsets, 150, 200, 264, {1, 1, 2, 140, 149}}, 4, 6);
  check_rows_alone(offsets, TypeParam::call);
  GroupedCase masked = this->make({GroupLayout::masked, 40, 96, 640, {7, 40, 0, 1}}, 4, 7);
  check_rows_alone(masked, TypeParam::call);
}

TYPED_TEST_P(Grouped, GivesTheBytesOfTheDenseProduct) {
  const GroupedCase problem = this->make({GroupLayout::offsets, 75, 136, 392, {0, 1, 5, 72, 75}}, 4, 8);
  this->run(problem, test_context());
  const Tensor dense = poisoned(TypeParam::kOut, {75, 136});
  for (std::size_t g = 0; g < 4; ++g) {
    TypeParam::dense(problem, g, problem.shape.index[g], problem.shape.index[g + 1], dense, test_context());
  }
  expect_same_bytes(problem.out, dense);
}

TYPED_TEST_P(Grouped, GateAndUpMayBeHalvesOfOneBuffer) {
  const GroupedCase gate = this->make({GroupLayout::offsets, 9, 24, 128, {0, 4, 9}}, 2, 9);
  const Tensor both = poisoned(TypeParam::kOut, {9, 48});
  TensorView half = both;
  half.shape[1] = 24;
  TypeParam::call(gate, gate.a, gate.a_scale, gate.rows(), half, test_context());
  this->run(gate, test_context());
  expect_same_bytes(half, gate.out);
  for (std::int64_t r = 0; r < 9; ++r) {
    for (std::int64_t j = 24; j < 48; ++j) EXPECT_TRUE(std::isnan(both[r * 48 + j]));
  }
}

TYPED_TEST_P(Grouped, RejectsBadArguments) {
  const std::string op = std::string(TypeParam::name) + ": ";
  const auto refused = [&](const GroupedShape& shape, const std::string& message) {
    EXPECT_ERROR(InvalidArgument, op + message, this->run(this->make(shape, 2, 1), test_context()));
  };
  refused({GroupLayout::contiguous, 3, 4, 8, {0, 2, -1}}, "'row_to_group' must be in [-1,1], got 2 at row 1");
  refused({GroupLayout::contiguous, 3, 4, 8, {0, -2, -1}},
          "'row_to_group' must be in [-1,1], got -2 at row 1");
  refused({GroupLayout::offsets, 3, 4, 8, {0, 2, 1}}, "'offsets' must ascend within [0,3], got 1 at group 2");
  refused({GroupLayout::offsets, 3, 4, 8, {0, 2, 4}}, "'offsets' must ascend within [0,3], got 4 at group 2");
  refused({GroupLayout::offsets, 3, 4, 8, {-1, 2, 3}},
          "'offsets' must ascend within [0,3], got -1 at group 0");
  refused({GroupLayout::masked, 3, 4, 8, {2, 4}}, "'masked_m' must be in [0,3], got 4 for group 1");
  GroupedCase problem = this->make({GroupLayout::offsets, 3, 4, 8, {0, 2, 3}}, 2, 1);
  problem.weights[1].shape[0] = 3;
  EXPECT_ERROR(InvalidArgument, op + "'b' must have shape [4,8], got [3,8]",
               this->run(problem, test_context()));
  problem.weights.pop_back();
  problem.scales.pop_back();
  EXPECT_ERROR(InvalidArgument, op + "'offsets' must have shape [2], got [3]",
               this->run(problem, test_context()));
  GroupedRows both = problem.rows();
  both.masked_m = problem.index;
  EXPECT_ERROR(InvalidArgument, op + "'rows' must give one of row_to_group, offsets and masked_m, got 2",
               TypeParam::call(problem, problem.a, problem.a_scale, both, problem.out, test_context()));
}

REGISTER_TYPED_TEST_SUITE_P(Grouped, AgreesWithNaiveLoops, ManyMoreRowsThanExpected,
                            RowsDoNotDependOnOneAnother, GivesTheBytesOfTheDenseProduct,
                            GateAndUpMayBeHalvesOfOneBuffer, RejectsBadArguments);

}  // namespace fathom
