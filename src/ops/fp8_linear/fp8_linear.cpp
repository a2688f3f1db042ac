#include "fathom/ops/fp8_linear.hpp"

#include "ops/dispatch.hpp"
#include "ops/fp8_linear/fp8_linear_impl.hpp"
#include "ops/sm90_gemm.hpp"
#include "ops/validate.hpp"

namespace fathom {
namespace {

using Impl = Implementation<Fp8LinearProblem, Fp8LinearArgs>;

// Best first for each device. The last of each takes every valid problem.
constexpr Impl kImplementations[] = {
    {"sm90:fused", fp8_linear_sm90_can_run, fp8_linear_sm90, /*fallback=*/false, DeviceKind::cuda},
    {"cuda:steps", always, fp8_linear_steps, /*fallback=*/false, DeviceKind::cuda},
    {"cpu:steps", always, fp8_linear_steps},
    {"ref:any", always, fp8_linear_ref, /*fallback=*/true},
};

Fp8LinearProblem validate(const Fp8LinearArgs& args, Device device) {
  const Expect expect{Fp8LinearProblem::op, device};
  expect.rank("x", args.x, 2);
  expect.rank("w", args.w, 2);
  const Fp8LinearProblem problem{
      .m = args.x.size(0),
      .n = args.w.size(0),
      .k = args.x.size(1),
      .x = args.x.dtype,
      .rule = args.rule,
      .scale_format = args.scale_format,
      .out = args.out.dtype,
      .accumulate = args.accumulate,
      .decode = args.decode,
      .aligned = device.kind == DeviceKind::host || (rows_suit_tma(args.x) && rows_suit_tma(args.w))};
  expect.tensor("x", args.x, {DType::bf16, DType::f32}, {-1, -1});
  expect.at_least("k", problem.k, 1);
  expect.tensor("w", args.w, {DType::f8e4m3}, {-1, problem.k});
  const std::int64_t groups = scale_groups(problem.k);
  expect.dtype("w_scale", args.w_scale, {DType::f32});
  expect.shape("w_scale", args.w_scale, {scale_groups(problem.n), groups});
  expect.on_device("w_scale", args.w_scale);
  expect.that(args.w_scale.data != nullptr || args.w_scale.count() == 0, "w_scale", "have data",
              "a null pointer");
  if (problem.accumulate) {
    expect.tensor("out", args.out, {DType::f32}, {problem.m, problem.n});
  } else {
    expect.tensor("out", args.out, {DType::f32, DType::bf16}, {problem.m, problem.n});
  }
  expect.tensor("q", args.q, {DType::f8e4m3}, {problem.m, problem.k});
  expect.tensor("q_scale", args.q_scale, {DType::f32}, {problem.m, groups});
  return problem;
}

}  // namespace

extern const OpInfo fp8_linear_info;
const OpInfo fp8_linear_info =
    make_op_info("FP8 linear layer that quantises its activations", Fp8LinearProblem{}, kImplementations);

void fp8_linear(const Fp8LinearArgs& args, const Context& context) {
  dispatch(kImplementations, validate, args, context);
}

void fp8_linear_steps(const Fp8LinearProblem&, const Fp8LinearArgs& args, const Context& context) {
  quantize_groups(quantize_step(args), context);
  fp8_gemm_nt(product_step(args), context);
}

}  // namespace fathom
