#include "fathom/ops/rms_norm.hpp"

#include "ops/dispatch.hpp"
#include "ops/rms_norm/rms_norm_impl.hpp"
#include "ops/validate.hpp"

namespace fathom {
namespace {

using Impl = Implementation<RmsNormProblem, RmsNormArgs>;

// Best first for each device. The last of each device takes every valid problem.
constexpr Impl kImplementations[] = {
    {"cuda:simt", always, rms_norm_simt, /*fallback=*/false, DeviceKind::cuda},
    {"cpu:simd", always, rms_norm_cpu},
    {"ref:any", always, rms_norm_ref, /*fallback=*/true},
};

RmsNormProblem validate(const RmsNormArgs& args, Device device) {
  const Expect expect{RmsNormProblem::op, device};
  expect.rank("x", args.x, 2);
  const RmsNormProblem problem{.tokens = args.x.size(0),
                               .dim = args.x.size(1),
                               .x = args.x.dtype,
                               .weight = args.weight.dtype,
                               .out = args.out.dtype};
  expect.tensor("x", args.x, {DType::f32, DType::bf16}, {-1, -1});
  expect.at_least("dim", problem.dim, 1);
  expect.tensor("weight", args.weight, {DType::f32, DType::bf16}, {problem.dim});
  expect.tensor("out", args.out, {DType::f32, DType::bf16}, {problem.tokens, problem.dim});
  expect.that(args.epsilon > 0, "epsilon", "be positive", args.epsilon);
  return problem;
}

}  // namespace

extern const OpInfo rms_norm_info;
const OpInfo rms_norm_info =
    make_op_info("root-mean-square normalisation of rows", RmsNormProblem{}, kImplementations);

void rms_norm(const RmsNormArgs& args, const Context& context) {
  dispatch(kImplementations, validate, args, context);
}

}  // namespace fathom
