#include "fathom/ops/quantize_groups.hpp"

#include "ops/dispatch.hpp"
#include "ops/group_quant.hpp"
#include "ops/quantize_groups/quantize_groups_impl.hpp"
#include "ops/validate.hpp"

namespace fathom {
namespace {

using Impl = Implementation<QuantizeGroupsProblem, QuantizeGroupsArgs>;

// Best first for each device. The last of each takes every valid problem.
constexpr Impl kImplementations[] = {
    {"cuda:simt", always, quantize_groups_simt, /*fallback=*/false, DeviceKind::cuda},
    {"cpu:simd", always, quantize_groups_cpu},
    {"ref:any", always, quantize_groups_ref, /*fallback=*/true},
};

QuantizeGroupsProblem validate(const QuantizeGroupsArgs& args, Device device) {
  const Expect expect{QuantizeGroupsProblem::op, device};
  expect.rank("x", args.x, 2);
  const QuantizeGroupsProblem problem{.tokens = args.x.size(0),
                                      .k = args.x.size(1),
                                      .x = args.x.dtype,
                                      .rule = args.rule,
                                      .scale_format = args.scale_format,
                                      .scale_layout = args.scale_layout};
  expect.tensor("x", args.x, {DType::f32, DType::bf16}, {-1, -1});
  expect.at_least("k", problem.k, 1);
  expect.tensor("q", args.q, {DType::f8e4m3}, {problem.tokens, problem.k});
  expect_scale(expect, "scale", args.scale, args.scale_format, args.scale_layout, problem.tokens,
               scale_groups(problem.k));
  return problem;
}

}  // namespace

extern const OpInfo quantize_groups_info;
const OpInfo quantize_groups_info =
    make_op_info("FP8 quantisation of rows in groups of 128", QuantizeGroupsProblem{}, kImplementations);

void quantize_groups(const QuantizeGroupsArgs& args, const Context& context) {
  dispatch(kImplementations, validate, args, context);
}

}  // namespace fathom
