// moe_route: checks, and the choice of an implementation.
#include "fathom/ops/moe_route.hpp"

#include "ops/dispatch.hpp"
#include "ops/moe_route/moe_route_impl.hpp"
#include "ops/validate.hpp"

namespace fathom {
namespace {

using Impl = Implementation<MoeRouteProblem, MoeRouteArgs>;

// Best first for each device. The reference takes every valid problem, `cuda:simt` up to 4096 experts.
constexpr Impl kImplementations[] = {
    {"cuda:simt", moe_route_simt_can_run, moe_route_simt, /*fallback=*/false, DeviceKind::cuda},
    {"cpu:simd", moe_route_cpu_can_run, moe_route_cpu},
    {"ref:any", always, moe_route_ref, /*fallback=*/true},
};

MoeRouteProblem validate(const MoeRouteArgs& args, Device device) {
  const Expect expect{MoeRouteProblem::op, device};
  expect.rank("logits", args.logits, 2);
  expect.rank("ids", args.ids, 2);
  const MoeRouteProblem problem{.tokens = args.logits.size(0),
                                .experts = args.logits.size(1),
                                .n_group = args.n_group,
                                .topk_group = args.topk_group,
                                .top_k = args.ids.size(1),
                                .scoring = args.scoring,
                                .bias = args.correction_bias.given(),
                                .renormalize = args.renormalize};
  expect.tensor("logits", args.logits, {DType::f32}, {-1, -1});
  expect.at_least("experts", problem.experts, 1);
  if (problem.bias) expect.tensor("correction_bias", args.correction_bias, {DType::f32}, {problem.experts});
  expect.tensor("ids", args.ids, {DType::i32}, {problem.tokens, -1});
  expect.tensor("weights", args.weights, {DType::f32}, {problem.tokens, problem.top_k});
  expect.at_least("top_k", problem.top_k, 1);
  expect.at_least("n_group", problem.n_group, 1);
  if (problem.experts % problem.n_group != 0) {
    expect.fail("n_group", "divide the " + std::to_string(problem.experts) + " experts",
                std::to_string(problem.n_group));
  }
  if (problem.topk_group < 1 || problem.topk_group > problem.n_group) {
    expect.fail("topk_group", "be in [1," + std::to_string(problem.n_group) + "]",
                std::to_string(problem.topk_group));
  }
  const std::int64_t candidates = problem.experts / problem.n_group * problem.topk_group;
  if (problem.top_k > candidates) {
    expect.fail("top_k", "be at most the " + std::to_string(candidates) + " experts of the chosen groups",
                std::to_string(problem.top_k));
  }
  return problem;
}

}  // namespace

std::string_view to_string(RouterScoring scoring) {
  return scoring == RouterScoring::sigmoid ? "sigmoid" : "softmax";
}

bool parse_enum(std::string_view text, RouterScoring& scoring) {
  for (const RouterScoring candidate : {RouterScoring::sigmoid, RouterScoring::softmax}) {
    if (to_string(candidate) != text) continue;
    scoring = candidate;
    return true;
  }
  return false;
}

extern const OpInfo moe_route_info;
const OpInfo moe_route_info =
    make_op_info("MoE router: group-limited top-k with correction bias", MoeRouteProblem{}, kImplementations);

void moe_route(const MoeRouteArgs& args, const Context& context) {
  dispatch(kImplementations, validate, args, context);
}

}  // namespace fathom
