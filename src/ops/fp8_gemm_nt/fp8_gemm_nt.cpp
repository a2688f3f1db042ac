#include "fathom/ops/fp8_gemm_nt.hpp"

#include "ops/dispatch.hpp"
#include "ops/fp8_gemm_nt/fp8_gemm_nt_impl.hpp"
#include "ops/gemm_scales.hpp"
#include "ops/sm90_gemm.hpp"
#include "ops/validate.hpp"

namespace fathom {
namespace {

using Impl = Implementation<Fp8GemmNtProblem, Fp8GemmNtArgs>;

// Best first for each device. The last of each takes every valid problem.
constexpr Impl kImplementations[] = {
    {"sm90:wgmma", fp8_gemm_nt_sm90_can_run, fp8_gemm_nt_sm90, /*fallback=*/false, DeviceKind::cuda},
    {"cuda:simt", always, fp8_gemm_nt_simt, /*fallback=*/true, DeviceKind::cuda},
    {"cpu:simd", always, fp8_gemm_nt_cpu},
    {"ref:any", always, fp8_gemm_nt_ref, /*fallback=*/true},
};

// Any strides, so Expect::tensor does not fit.
void expect_scale(const Expect& expect, std::string_view name, const TensorView& scale, std::int64_t rows,
                  std::int64_t groups) {
  expect.dtype(name, scale, {DType::f32, DType::i32});
  expect.shape(name, scale, {rows, scale.dtype == DType::i32 ? (groups + 3) / 4 : groups});
  expect.on_device(name, scale);
  expect.that(scale.data != nullptr || scale.count() == 0, name, "have data", "a null pointer");
}

Fp8GemmNtProblem validate(const Fp8GemmNtArgs& args, Device device) {
  const Expect expect{Fp8GemmNtProblem::op, device};
  expect.rank("a", args.a, 2);
  expect.rank("b", args.b, 2);
  expect.rank("b_scale", args.b_scale, 2);
  Fp8GemmNtProblem problem{
      .m = args.a.size(0),
      .n = args.b.size(0),
      .k = args.a.size(1),
      .packed_a_scale = args.a_scale.dtype == DType::i32,
      .packed_b_scale = args.b_scale.dtype == DType::i32,
      .out = args.out.dtype,
      .accumulate = args.accumulate,
      .decode = args.decode,
      .aligned = device.kind == DeviceKind::host || (rows_suit_tma(args.a) && rows_suit_tma(args.b))};
  expect.tensor("a", args.a, {DType::f8e4m3}, {-1, -1});
  expect.tensor("b", args.b, {DType::f8e4m3}, {-1, problem.k});
  const std::int64_t groups = scale_groups(problem.k);
  const std::int64_t block_rows = scale_groups(problem.n);
  expect_scale(expect, "a_scale", args.a_scale, problem.m, groups);
  // The row count tells the two forms apart; they agree where both have one row.
  problem.row_b_scale =
      problem.packed_b_scale || (args.b_scale.size(0) == problem.n && problem.n != block_rows);
  expect_scale(expect, "b_scale", args.b_scale, problem.row_b_scale ? problem.n : block_rows, groups);
  if (problem.accumulate) {
    expect.tensor("out", args.out, {DType::f32}, {problem.m, problem.n});
  } else {
    expect.tensor("out", args.out, {DType::f32, DType::bf16}, {problem.m, problem.n});
  }
  return problem;
}

}  // namespace

extern const OpInfo fp8_gemm_nt_info;
const OpInfo fp8_gemm_nt_info =
    make_op_info("FP8 matrix product with 128-element scales", Fp8GemmNtProblem{}, kImplementations);

void fp8_gemm_nt(const Fp8GemmNtArgs& args, const Context& context) {
  dispatch(kImplementations, validate, args, context);
}

}  // namespace fathom
