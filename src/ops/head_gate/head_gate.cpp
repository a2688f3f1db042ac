#include "fathom/ops/head_gate.hpp"

#include <cmath>

#include "ops/dispatch.hpp"
#include "ops/head_gate/head_gate_impl.hpp"
#include "ops/validate.hpp"

namespace fathom {
namespace {

using Impl = Implementation<HeadGateProblem, HeadGateArgs>;

// Best first for each device. The last of each takes every valid problem.
constexpr Impl kImplementations[] = {
    {"sm90:wgmma", head_gate_sm90_can_run, head_gate_sm90, /*fallback=*/false, DeviceKind::cuda},
    {"cuda:simt", always, head_gate_simt, /*fallback=*/true, DeviceKind::cuda},
    {"cpu:simd", always, head_gate_cpu},
    {"ref:any", always, head_gate_ref, /*fallback=*/true},
};

HeadGateProblem validate(const HeadGateArgs& args, Device device) {
  const Expect expect{HeadGateProblem::op, device};
  expect.rank("x", args.x, 2);
  expect.rank("w", args.w, 2);
  const HeadGateProblem problem{
      .tokens = args.x.size(0),
      .heads = args.w.size(0),
      .hidden = args.x.size(1),
      .x = args.x.dtype,
      .w = args.w.dtype,
      .q_scale = args.q_scale.given(),
      .decode = args.decode,
      .aligned = device.kind == DeviceKind::host || (rows_suit_tma(args.x) && rows_suit_tma(args.w))};
  expect.tensor("x", args.x, {DType::bf16, DType::f32}, {-1, -1});
  expect.tensor("w", args.w, {DType::bf16, DType::f32}, {-1, problem.hidden});
  expect.that(problem.x == DType::f32 || problem.w == DType::bf16, "w", "be bf16 where x is bf16",
              to_string(problem.w));
  if (problem.q_scale) expect.tensor("q_scale", args.q_scale, {DType::f32}, {problem.tokens, problem.heads});
  expect.tensor("out", args.out, {DType::f32}, {problem.tokens, problem.heads});
  expect.that(std::isfinite(args.softmax_scale), "softmax_scale", "be finite", args.softmax_scale);
  return problem;
}

}  // namespace

extern const OpInfo head_gate_info;
const OpInfo head_gate_info =
    make_op_info("weights of the indexer's heads", HeadGateProblem{}, kImplementations);

void head_gate(const HeadGateArgs& args, const Context& context) {
  dispatch(kImplementations, validate, args, context);
}

}  // namespace fathom
