#include "fathom/ops/copy_rows.hpp"

#include "ops/copy_rows/copy_rows_impl.hpp"
#include "ops/op_test.hpp"

namespace fathom {
namespace {

TEST(CopyRows, AgreesWithReference) {
  for (const CopyRowsProblem& problem :
       {CopyRowsProblem{.tokens = 1, .dim = 7168}, CopyRowsProblem{.tokens = 5, .heads = 8, .dim = 64},
        CopyRowsProblem{.tokens = 3, .dim = 1, .x = DType::bf16},
        CopyRowsProblem{.tokens = 7, .heads = 3, .dim = 129, .out = DType::bf16},
        CopyRowsProblem{.tokens = 4, .dim = 33, .x = DType::bf16, .out = DType::bf16, .selected = true},
        CopyRowsProblem{.tokens = 9, .dim = 100, .x = DType::bf16, .selected = true, .accumulate = true},
        CopyRowsProblem{.tokens = 400, .heads = 2, .dim = 256, .accumulate = true},
        CopyRowsProblem{.tokens = 0, .dim = 8}}) {
    SCOPED_TRACE(problem_string(problem));
    Random random(problem.dim);
    const std::int64_t rows = problem.selected ? 6 : problem.tokens;
    const Tensor x = random.normal(problem.x, {rows, problem.heads, problem.dim});
    Tensor chosen(DType::i32, {problem.tokens});
    for (std::int64_t t = 0; t < problem.tokens; ++t)
      chosen.set(t, static_cast<double>(random.integer(0, std::max<std::int64_t>(rows, 1) - 1)));
    Tensor got = poisoned(problem.out, {problem.tokens, problem.heads, problem.dim});
    Tensor expected = poisoned(problem.out, {problem.tokens, problem.heads, problem.dim});
    if (problem.accumulate) {
      for (std::int64_t i = 0; i < got.count(); ++i) {
        got.set(i, static_cast<double>(i % 17) / 8);
        expected.set(i, static_cast<double>(i % 17) / 8);
      }
    }
    CopyRowsArgs args{.x = x, .out = got, .accumulate = problem.accumulate};
    if (problem.selected) args.rows = chosen;
    copy_rows(args, test_context());
    args.out = expected;
    copy_rows_ref(problem, args, test_context());
    expect_same_bytes(got, expected);
  }
}

TEST(CopyRows, WritesIntoAColumnRange) {
  const Tensor x = tensor_of<float>(DType::f32, {2, 1, 2}, {1, 2, 3, 4});
  Tensor out = poisoned(DType::f32, {2, 1, 4});
  TensorView right = out.view();
  right.data = out.as<float>() + 2;
  right.shape[2] = 2;
  const Tensor swapped = tensor_of<int>(DType::i32, {2}, {1, 0});
  copy_rows({.x = x, .rows = swapped, .out = right}, test_context());
  EXPECT_TRUE(std::isnan(out[0]) && std::isnan(out[1]) && std::isnan(out[4]) && std::isnan(out[5]));
  EXPECT_EQ(out[2], 3);
  EXPECT_EQ(out[3], 4);
  EXPECT_EQ(out[6], 1);
  EXPECT_EQ(out[7], 2);
}

TEST(CopyRows, RejectsBadArguments) {
  const Tensor x = poisoned(DType::f32, {4, 8});
  const Tensor bf16 = poisoned(DType::bf16, {1, 8});
  const Tensor wide = poisoned(DType::f32, {1, 9});
  const Tensor row = tensor_of<int>(DType::i32, {1}, {4});
  EXPECT_ERROR(InvalidArgument, "copy_rows: 'rows' must name rows of x, 0 to 3, got 4",
               copy_rows({.x = x, .rows = row, .out = poisoned(DType::f32, {1, 8})}, test_context()));
  EXPECT_ERROR(InvalidArgument, "copy_rows: 'out' must have shape [1,8], got [1,9]",
               copy_rows({.x = x, .rows = row, .out = wide}, test_context()));
  EXPECT_ERROR(
      InvalidArgument, "copy_rows: 'out' must be f32 to accumulate, got bf16",
      copy_rows({.x = poisoned(DType::f32, {1, 8}), .out = bf16, .accumulate = true}, test_context()));
  EXPECT_ERROR(InvalidArgument, "copy_rows: 'x' must have shape [1,8], got [4,8]",
               copy_rows({.x = x, .out = bf16}, test_context()));
}

}  // namespace
}  // namespace fathom
