#include "fathom/ops/scale.hpp"

#include <cmath>

#include "ops/dispatch.hpp"
#include "ops/scale/scale_impl.hpp"
#include "ops/validate.hpp"

namespace fathom {
namespace {

// [doc:begin list]
// Best first. The reference is last and takes every valid problem.
constexpr Implementation<ScaleProblem, ScaleArgs> kImplementations[] = {
    {"cpu:simd", always, scale_cpu},
    {"ref:any", always, scale_ref, /*fallback=*/true},
};
// [doc:end list]

// [doc:begin validate]
ScaleProblem validate(const ScaleArgs& args, Device device) {
  const Expect expect{ScaleProblem::op, device};
  expect.tensor("x", args.x, {DType::f32, DType::bf16}, {-1, -1});
  const ScaleProblem problem{.rows = args.x.size(0), .dim = args.x.size(1), .dtype = args.x.dtype};
  expect.tensor("out", args.out, {problem.dtype}, {problem.rows, problem.dim});
  expect.that(std::isfinite(args.factor), "factor", "be finite", args.factor);
  return problem;
}
// [doc:end validate]

}  // namespace

// [doc:begin public]
extern const OpInfo scale_info;
const OpInfo scale_info = make_op_info("every element times one factor", ScaleProblem{}, kImplementations);

void scale(const ScaleArgs& args, const Context& context) {
  dispatch(kImplementations, validate, args, context);
}
// [doc:end public]

}  // namespace fathom
