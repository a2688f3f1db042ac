#include "fathom/ops/batched_gemm_nt.hpp"

#include "ops/batched_gemm_nt/batched_gemm_nt_impl.hpp"
#include "ops/dispatch.hpp"
#include "ops/sm90_mqa.hpp"
#include "ops/validate.hpp"

namespace fathom {
namespace {

using Impl = Implementation<BatchedGemmNtProblem, BatchedGemmNtArgs>;

// Best first for each device. The reference takes every valid problem.
constexpr Impl kImplementations[] = {
    {"sm90:wgmma", batched_gemm_nt_sm90_can_run, batched_gemm_nt_sm90, /*fallback=*/false, DeviceKind::cuda},
    {"cuda:simt", batched_gemm_nt_simt_can_run, batched_gemm_nt_simt, /*fallback=*/false, DeviceKind::cuda},
    {"cpu:simd", always, batched_gemm_nt_cpu},
    {"ref:any", always, batched_gemm_nt_ref, /*fallback=*/true},
};

BatchedGemmNtProblem validate(const BatchedGemmNtArgs& args, Device device) {
  const Expect expect{BatchedGemmNtProblem::op, device};
  expect.rank("x", args.x, 3);
  expect.rank("w", args.w, 3);
  const bool aligned = on_host(device) || (suits_bulk_copies(args.x) && suits_bulk_copies(args.w));
  const BatchedGemmNtProblem problem{.tokens = args.x.size(0),
                                     .groups = args.x.size(1),
                                     .n = args.w.size(1),
                                     .k = args.x.size(2),
                                     .x = args.x.dtype,
                                     .w = args.w.dtype,
                                     .out = args.out.dtype,
                                     .aligned = aligned};
  expect.tensor("x", args.x, {DType::bf16, DType::f32}, {-1, -1, -1});
  if (problem.x == DType::bf16) {
    expect.tensor("w", args.w, {DType::bf16, DType::f8e4m3}, {problem.groups, -1, problem.k});
    expect.tensor("out", args.out, {DType::f32, DType::bf16}, {problem.tokens, problem.groups, problem.n});
  } else {
    expect.tensor("w", args.w, {DType::f32, DType::bf16, DType::f8e4m3}, {problem.groups, -1, problem.k});
    expect.tensor("out", args.out, {DType::f32}, {problem.tokens, problem.groups, problem.n});
  }
  if (problem.w == DType::f8e4m3) {
    expect.dtype("w_scale", args.w_scale, {DType::f32});
    expect.shape("w_scale", args.w_scale, {problem.groups, (problem.n + 127) / 128, (problem.k + 127) / 128});
    expect.on_device("w_scale", args.w_scale);
  } else {
    expect.that(!args.w_scale.given(), "w_scale", "be given only with f8e4m3", to_string(problem.w));
  }
  return problem;
}

}  // namespace

extern const OpInfo batched_gemm_nt_info;
const OpInfo batched_gemm_nt_info =
    make_op_info("one matrix product per group", BatchedGemmNtProblem{}, kImplementations);

void batched_gemm_nt(const BatchedGemmNtArgs& args, const Context& context) {
  dispatch(kImplementations, validate, args, context);
}

}  // namespace fathom
