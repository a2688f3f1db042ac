// moe_combine: checks, and the choice of an implementation.
#include "fathom/ops/moe_combine.hpp"

#include "ops/dispatch.hpp"
#include "ops/moe_combine/moe_combine_impl.hpp"
#include "ops/validate.hpp"

namespace fathom {
namespace {

using Impl = Implementation<MoeCombineProblem, MoeCombineArgs>;

// Best first for each device. The last of each takes every valid problem.
constexpr Impl kImplementations[] = {
    {"cuda:simt", always, moe_combine_simt, /*fallback=*/false, DeviceKind::cuda},
    {"cpu:simd", always, moe_combine_cpu},
    {"ref:any", always, moe_combine_ref, /*fallback=*/true},
};

MoeCombineProblem validate(const MoeCombineArgs& args, Device device) {
  const Expect expect{MoeCombineProblem::op, device};
  expect.rank("y", args.y, 2);
  expect.rank("slot_to_row", args.slot_to_row, 2);
  const MoeCombineProblem problem{.tokens = args.slot_to_row.size(0),
                                  .top_k = args.slot_to_row.size(1),
                                  .rows = args.y.size(0),
                                  .dim = args.y.size(1),
                                  .y = args.y.dtype,
                                  .out = args.out.dtype,
                                  .accumulate = args.accumulate};
  expect.tensor("y", args.y, {DType::f32, DType::bf16}, {-1, -1});
  expect.tensor("slot_to_row", args.slot_to_row, {DType::i32}, {-1, -1});
  expect.tensor("weights", args.weights, {DType::f32}, {problem.tokens, problem.top_k});
  expect.tensor("out", args.out, {DType::f32, DType::bf16}, {problem.tokens, problem.dim});
  for (std::int64_t t = 0; device.kind == DeviceKind::host && t < problem.tokens; ++t) {
    for (std::int64_t s = 0; s < problem.top_k; ++s) {
      const std::int32_t row = args.slot_to_row.as<std::int32_t>()[t * args.slot_to_row.step(0) + s];
      if (row >= -1 && row < problem.rows) continue;
      expect.fail("slot_to_row", "be in [-1," + std::to_string(problem.rows) + ")",
                  std::to_string(row) + " for slot " + std::to_string(s) + " of token " + std::to_string(t));
    }
  }
  return problem;
}

}  // namespace

extern const OpInfo moe_combine_info;
const OpInfo moe_combine_info =
    make_op_info("weighted sum of every token's expert outputs", MoeCombineProblem{}, kImplementations);

void moe_combine(const MoeCombineArgs& args, const Context& context) {
  dispatch(kImplementations, validate, args, context);
}

}  // namespace fathom
