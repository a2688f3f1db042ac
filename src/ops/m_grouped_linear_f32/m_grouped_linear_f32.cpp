// m_grouped_linear_f32: checks, and the choice of an implementation.
#include "fathom/ops/m_grouped_linear_f32.hpp"

#include "ops/dispatch.hpp"
#include "ops/grouped.hpp"
#include "ops/m_grouped_linear_f32/m_grouped_linear_f32_impl.hpp"

namespace fathom {
namespace {

using Impl = Implementation<MGroupedLinearF32Problem, MGroupedLinearF32Args>;

// Best first. The reference is last and takes every valid problem.
constexpr Impl kImplementations[] = {
    {"cpu:simd", always, m_grouped_linear_f32_cpu},
    {"ref:any", always, m_grouped_linear_f32_ref, /*fallback=*/true},
};

MGroupedLinearF32Problem validate(const MGroupedLinearF32Args& args, Device device) {
  const Expect expect{MGroupedLinearF32Problem::op, device};
  const GroupLayout layout = group_layout(expect, args.rows);
  const bool masked = layout == GroupLayout::masked;
  expect.rank("a", args.a, masked ? 3 : 2);
  expect.that(!args.b.empty(), "b", "have at least 1 group", "0");
  expect.rank("b", args.b[0], 2);
  const MGroupedLinearF32Problem problem{.groups = static_cast<std::int64_t>(args.b.size()),
                                         .rows = args.a.size(masked ? 1 : 0),
                                         .n = args.b[0].size(0),
                                         .k = args.a.size(masked ? 2 : 1),
                                         .layout = layout,
                                         .b = args.b[0].dtype};
  const auto [groups, rows, n, k] = std::tuple(problem.groups, problem.rows, problem.n, problem.k);
  check_row_tensor(expect, "a", args.a, {DType::f32}, layout, groups, rows, k);
  expect.unit_stride("a", args.a);
  check_group_matrices(expect, "b", args.b, {DType::f32, DType::bf16, DType::f8e4m3}, groups, n, k);
  if (problem.b == DType::f8e4m3) {
    check_group_matrices(expect, "b_scale", args.b_scale, {DType::f32}, groups, (n + 127) / 128,
                         (k + 127) / 128);
  } else {
    expect.that(args.b_scale.empty(), "b_scale", "be given with f8e4m3 weights only", to_string(problem.b));
  }
  check_row_tensor(expect, "out", args.out, {DType::f32}, layout, groups, rows, n);
  expect.unit_stride("out", args.out);
  check_grouped_rows(expect, layout, args.rows, groups, rows);
  return problem;
}

}  // namespace

extern const OpInfo m_grouped_linear_f32_info;
const OpInfo m_grouped_linear_f32_info =
    make_op_info("product of groups of f32 rows with their own weights of any format",
                 MGroupedLinearF32Problem{}, kImplementations);

void m_grouped_linear_f32(const MGroupedLinearF32Args& args, const Context& context) {
  dispatch(kImplementations, validate, args, context);
}

}  // namespace fathom
