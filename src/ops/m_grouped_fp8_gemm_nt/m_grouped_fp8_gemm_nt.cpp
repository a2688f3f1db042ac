// m_grouped_fp8_gemm_nt: checks, and the choice of an implementation.
#include "fathom/ops/m_grouped_fp8_gemm_nt.hpp"

#include "ops/dispatch.hpp"
#include "ops/gemm_scales.hpp"
#include "ops/grouped.hpp"
#include "ops/m_grouped_fp8_gemm_nt/m_grouped_fp8_gemm_nt_impl.hpp"
#include "ops/sm90_grouped.hpp"

namespace fathom {
namespace {

using Impl = Implementation<MGroupedFp8GemmNtProblem, MGroupedFp8GemmNtArgs>;

// Best first for each device. The last of each takes every valid problem.
constexpr Impl kImplementations[] = {
    {"sm90:wgmma", m_grouped_fp8_gemm_nt_sm90_can_run, m_grouped_fp8_gemm_nt_sm90, /*fallback=*/false,
     DeviceKind::cuda},
    {"cuda:simt", always, m_grouped_fp8_gemm_nt_simt, /*fallback=*/true, DeviceKind::cuda},
    {"cpu:simd", always, m_grouped_fp8_gemm_nt_cpu},
    {"ref:any", always, m_grouped_fp8_gemm_nt_ref, /*fallback=*/true},
};

MGroupedFp8GemmNtProblem validate(const MGroupedFp8GemmNtArgs& args, Device device) {
  const Expect expect{MGroupedFp8GemmNtProblem::op, device};
  const GroupLayout layout = group_layout(expect, args.rows);
  const bool masked = layout == GroupLayout::masked;
  expect.rank("a", args.a, masked ? 3 : 2);
  expect.that(!args.b.empty(), "b", "have at least 1 group", "0");
  expect.rank("b", args.b[0], 2);
  MGroupedFp8GemmNtProblem problem{.groups = static_cast<std::int64_t>(args.b.size()),
                                   .rows = args.a.size(masked ? 1 : 0),
                                   .n = args.b[0].size(0),
                                   .k = args.a.size(masked ? 2 : 1),
                                   .layout = layout,
                                   .packed_a_scale = args.a_scale.dtype == DType::i32,
                                   .out = args.out.dtype,
                                   .expected_m = args.rows.expected_m};
  const auto [groups, rows, n, k] = std::tuple(problem.groups, problem.rows, problem.n, problem.k);
  check_row_tensor(expect, "a", args.a, {DType::f8e4m3}, layout, groups, rows, k);
  expect.unit_stride("a", args.a);
  check_group_matrices(expect, "b", args.b, {DType::f8e4m3}, groups, n, k);
  const std::int64_t groups_k = scale_groups(k);
  check_row_tensor(expect, "a_scale", args.a_scale, {DType::f32, DType::i32}, layout, groups, rows,
                   problem.packed_a_scale ? (groups_k + 3) / 4 : groups_k);
  check_group_matrices(expect, "b_scale", args.b_scale, {DType::f32}, groups, (n + 127) / 128,
                       (k + 127) / 128);
  check_row_tensor(expect, "out", args.out, {DType::f32, DType::bf16}, layout, groups, rows, n);
  expect.unit_stride("out", args.out);
  check_grouped_rows(expect, layout, args.rows, groups, rows);
  problem.aligned = device.kind == DeviceKind::host || grouped_suits_tma(grouped_tensors(args));
  return problem;
}

}  // namespace

extern const OpInfo m_grouped_fp8_gemm_nt_info;
const OpInfo m_grouped_fp8_gemm_nt_info = make_op_info("FP8 product of groups of rows with their own weights",
                                                       MGroupedFp8GemmNtProblem{}, kImplementations);

void m_grouped_fp8_gemm_nt(const MGroupedFp8GemmNtArgs& args, const Context& context) {
  dispatch(kImplementations, validate, args, context);
}

}  // namespace fathom
