// layer_norm: checks, and the choice of an implementation.
#include "fathom/ops/layer_norm.hpp"

#include "ops/dispatch.hpp"
#include "ops/layer_norm/layer_norm_impl.hpp"
#include "ops/validate.hpp"

namespace fathom {
namespace {

using Impl = Implementation<LayerNormProblem, LayerNormArgs>;

// Best first for each device. The last of each device takes every valid problem.
constexpr Impl kImplementations[] = {
    {"cuda:simt", always, layer_norm_simt, /*fallback=*/false, DeviceKind::cuda},
    {"cpu:simd", always, layer_norm_cpu},
    {"ref:any", always, layer_norm_ref, /*fallback=*/true},
};

LayerNormProblem validate(const LayerNormArgs& args, Device device) {
  const Expect expect{LayerNormProblem::op, device};
  expect.rank("x", args.x, 2);
  const LayerNormProblem problem{.tokens = args.x.size(0),
                                 .dim = args.x.size(1),
                                 .x = args.x.dtype,
                                 .weight = args.weight.dtype,
                                 .out = args.out.dtype};
  expect.tensor("x", args.x, {DType::f32, DType::bf16}, {-1, -1});
  expect.at_least("dim", problem.dim, 1);
  expect.tensor("weight", args.weight, {DType::f32, DType::bf16}, {problem.dim});
  expect.tensor("bias", args.bias, {problem.weight}, {problem.dim});
  expect.tensor("out", args.out, {DType::f32, DType::bf16}, {problem.tokens, problem.dim});
  if (!(args.epsilon > 0)) expect.fail("epsilon", "be positive", std::to_string(args.epsilon));
  return problem;
}

}  // namespace

extern const OpInfo layer_norm_info;
const OpInfo layer_norm_info =
    make_op_info("layer normalisation of rows, with bias", LayerNormProblem{}, kImplementations);

void layer_norm(const LayerNormArgs& args, const Context& context) {
  dispatch(kImplementations, validate, args, context);
}

}  // namespace fathom
