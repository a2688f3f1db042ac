// m_grouped_bf16_gemm_nt: checks, and the choice of an implementation.
#include "fathom/ops/m_grouped_bf16_gemm_nt.hpp"

#include "ops/dispatch.hpp"
#include "ops/grouped.hpp"
#include "ops/m_grouped_bf16_gemm_nt/m_grouped_bf16_gemm_nt_impl.hpp"
#include "ops/sm90_grouped.hpp"

namespace fathom {
namespace {

using Impl = Implementation<MGroupedBf16GemmNtProblem, MGroupedBf16GemmNtArgs>;

// Best first for each device. The last of each takes every valid problem.
constexpr Impl kImplementations[] = {
    {"sm90:wgmma", m_grouped_bf16_gemm_nt_sm90_can_run, m_grouped_bf16_gemm_nt_sm90, /*fallback=*/false,
     DeviceKind::cuda},
    {"cuda:simt", always, m_grouped_bf16_gemm_nt_simt, /*fallback=*/true, DeviceKind::cuda},
    {"cpu:simd", always, m_grouped_bf16_gemm_nt_cpu},
    {"ref:any", always, m_grouped_bf16_gemm_nt_ref, /*fallback=*/true},
};

MGroupedBf16GemmNtProblem validate(const MGroupedBf16GemmNtArgs& args, Device device) {
  const Expect expect{MGroupedBf16GemmNtProblem::op, device};
  const GroupLayout layout = group_layout(expect, args.rows);
  const bool masked = layout == GroupLayout::masked;
  expect.rank("a", args.a, masked ? 3 : 2);
  expect.that(!args.b.empty(), "b", "have at least 1 group", "0");
  expect.rank("b", args.b[0], 2);
  MGroupedBf16GemmNtProblem problem{.groups = static_cast<std::int64_t>(args.b.size()),
                                    .rows = args.a.size(masked ? 1 : 0),
                                    .n = args.b[0].size(0),
                                    .k = args.a.size(masked ? 2 : 1),
                                    .layout = layout,
                                    .out = args.out.dtype,
                                    .expected_m = args.rows.expected_m};
  const auto [groups, rows, n, k] = std::tuple(problem.groups, problem.rows, problem.n, problem.k);
  check_row_tensor(expect, "a", args.a, {DType::bf16}, layout, groups, rows, k);
  expect.unit_stride("a", args.a);
  check_group_matrices(expect, "b", args.b, {DType::bf16}, groups, n, k);
  check_row_tensor(expect, "out", args.out, {DType::f32, DType::bf16}, layout, groups, rows, n);
  expect.unit_stride("out", args.out);
  check_grouped_rows(expect, layout, args.rows, groups, rows);
  problem.aligned = device.kind == DeviceKind::host || grouped_suits_tma(grouped_tensors(args));
  return problem;
}

}  // namespace

extern const OpInfo m_grouped_bf16_gemm_nt_info;
const OpInfo m_grouped_bf16_gemm_nt_info = make_op_info(
    "bf16 product of groups of rows with their own weights", MGroupedBf16GemmNtProblem{}, kImplementations);

void m_grouped_bf16_gemm_nt(const MGroupedBf16GemmNtArgs& args, const Context& context) {
  dispatch(kImplementations, validate, args, context);
}

}  // namespace fathom
