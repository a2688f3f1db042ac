#include "fathom/ops/linear_f32.hpp"

#include "ops/dispatch.hpp"
#include "ops/gemm_scales.hpp"
#include "ops/linear_f32/linear_f32_impl.hpp"
#include "ops/validate.hpp"

namespace fathom {
namespace {

using Impl = Implementation<LinearF32Problem, LinearF32Args>;

// Best first. The reference is last and takes every valid problem.
constexpr Impl kImplementations[] = {
    {"cpu:simd", always, linear_f32_cpu},
    {"ref:any", always, linear_f32_ref, /*fallback=*/true},
};

LinearF32Problem validate(const LinearF32Args& args, Device device) {
  const Expect expect{LinearF32Problem::op, device};
  expect.rank("x", args.x, 2);
  expect.rank("w", args.w, 2);
  const LinearF32Problem problem{.m = args.x.size(0),
                                 .n = args.w.size(0),
                                 .k = args.x.size(1),
                                 .w = args.w.dtype,
                                 .accumulate = args.accumulate};
  expect.tensor("x", args.x, {DType::f32}, {-1, -1});
  expect.tensor("w", args.w, {DType::f32, DType::bf16, DType::f8e4m3}, {-1, problem.k});
  if (problem.w == DType::f8e4m3) {
    expect.tensor("w_scale", args.w_scale, {DType::f32}, {scale_groups(problem.n), scale_groups(problem.k)});
  } else {
    expect.that(!args.w_scale.given(), "w_scale", "not be given unless w is f8e4m3", args.w_scale);
  }
  expect.tensor("out", args.out, {DType::f32}, {problem.m, problem.n});
  return problem;
}

}  // namespace

extern const OpInfo linear_f32_info;
const OpInfo linear_f32_info =
    make_op_info("f32 linear layer over f32, bf16 or FP8 weights", LinearF32Problem{}, kImplementations);

void linear_f32(const LinearF32Args& args, const Context& context) {
  dispatch(kImplementations, validate, args, context);
}

}  // namespace fathom
