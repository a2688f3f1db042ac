#include "fathom/ops/copy_rows.hpp"

#include "ops/copy_rows/copy_rows_impl.hpp"
#include "ops/dispatch.hpp"
#include "ops/validate.hpp"

namespace fathom {
namespace {

using Impl = Implementation<CopyRowsProblem, CopyRowsArgs>;

// Best first for each device. The last of each device takes every valid problem.
constexpr Impl kImplementations[] = {
    {"cuda:simt", always, copy_rows_simt, /*fallback=*/false, DeviceKind::cuda},
    {"cpu:simd", always, copy_rows_cpu},
    {"ref:any", always, copy_rows_ref, /*fallback=*/true},
};

CopyRowsProblem validate(const CopyRowsArgs& args, Device device) {
  const Expect expect{CopyRowsProblem::op, device};
  expect.that(args.x.rank == 2 || args.x.rank == 3, "x", "have rank 2 or 3", args.x);
  expect.rank("out", args.out, args.x.rank);
  const bool heads = args.x.rank == 3;
  const CopyRowsProblem problem{.tokens = args.out.size(0),
                                .heads = heads ? args.x.size(1) : 1,
                                .dim = args.x.size(heads ? 2 : 1),
                                .x = args.x.dtype,
                                .out = args.out.dtype,
                                .selected = args.rows.given(),
                                .accumulate = args.accumulate};
  const std::int64_t rows = problem.selected ? args.x.size(0) : problem.tokens;
  if (heads) {
    expect.tensor("x", args.x, {DType::f32, DType::bf16}, {rows, problem.heads, problem.dim});
    expect.tensor("out", args.out, {DType::f32, DType::bf16}, {problem.tokens, problem.heads, problem.dim});
  } else {
    expect.tensor("x", args.x, {DType::f32, DType::bf16}, {rows, problem.dim});
    expect.tensor("out", args.out, {DType::f32, DType::bf16}, {problem.tokens, problem.dim});
  }
  expect.that(!args.accumulate || problem.out == DType::f32, "out", "be f32 to accumulate",
              to_string(problem.out));
  if (problem.selected) {
    expect.tensor("rows", args.rows, {DType::i32}, {problem.tokens});
    for (std::int64_t t = 0; on_host(device) && t < problem.tokens; ++t) {
      const std::int64_t row = copy_rows_source(args, t);
      if (row < 0 || row >= rows)
        expect.fail("rows", "name rows of x, 0 to " + std::to_string(rows - 1), std::to_string(row));
    }
  }
  return problem;
}

}  // namespace

extern const OpInfo copy_rows_info;
const OpInfo copy_rows_info =
    make_op_info("copies, selects, converts or adds rows", CopyRowsProblem{}, kImplementations);

void copy_rows(const CopyRowsArgs& args, const Context& context) {
  dispatch(kImplementations, validate, args, context);
}

}  // namespace fathom
