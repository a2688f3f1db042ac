#include "fathom/ops/bf16_gemm_nt.hpp"

#include "ops/bf16_gemm_nt/bf16_gemm_nt_impl.hpp"
#include "ops/dispatch.hpp"
#include "ops/sm90_gemm.hpp"
#include "ops/validate.hpp"

namespace fathom {
namespace {

using Impl = Implementation<Bf16GemmNtProblem, Bf16GemmNtArgs>;

// Best first for each device. The last of each takes every valid problem.
constexpr Impl kImplementations[] = {
    {"sm90:wgmma", bf16_gemm_nt_sm90_can_run, bf16_gemm_nt_sm90, /*fallback=*/false, DeviceKind::cuda},
    {"cuda:simt", always, bf16_gemm_nt_simt, /*fallback=*/true, DeviceKind::cuda},
    {"cpu:simd", always, bf16_gemm_nt_cpu},
    {"ref:any", always, bf16_gemm_nt_ref, /*fallback=*/true},
};

Bf16GemmNtProblem validate(const Bf16GemmNtArgs& args, Device device) {
  const Expect expect{Bf16GemmNtProblem::op, device};
  expect.rank("a", args.a, 2);
  expect.rank("b", args.b, 2);
  const Bf16GemmNtProblem problem{
      .m = args.a.size(0),
      .n = args.b.size(0),
      .k = args.a.size(1),
      .out = args.out.dtype,
      .accumulate = args.accumulate,
      .decode = args.decode,
      .aligned = device.kind == DeviceKind::host || (rows_suit_tma(args.a) && rows_suit_tma(args.b))};
  expect.tensor("a", args.a, {DType::bf16}, {-1, -1});
  expect.tensor("b", args.b, {DType::bf16}, {-1, problem.k});
  expect.tensor("out", args.out, {DType::f32, DType::bf16}, {problem.m, problem.n});
  return problem;
}

}  // namespace

extern const OpInfo bf16_gemm_nt_info;
const OpInfo bf16_gemm_nt_info = make_op_info("bf16 matrix product", Bf16GemmNtProblem{}, kImplementations);

void bf16_gemm_nt(const Bf16GemmNtArgs& args, const Context& context) {
  dispatch(kImplementations, validate, args, context);
}

}  // namespace fathom
