// moe_forward on Hopper with the activation in the epilogue of the product of gates and ups.
#include "cuda/device_context.hpp"
#include "fathom/ops/silu_mul_quant.hpp"
#include "ops/moe_forward/moe_forward_impl.hpp"
#include "ops/sm90_grouped.hpp"

namespace fathom {
namespace {

Sm90GroupedShape shape_of(const MoeForwardProblem& p) {
  const MoeForwardParts parts(p);
  return {.fp8 = true,
          .masked = p.layout == GroupLayout::masked,
          .groups = p.experts,
          .rows = parts.rows,
          .n = 2 * p.intermediate,
          .k = p.hidden,
          .expected_m = parts.expected_m,
          .by_id = p.layout == GroupLayout::contiguous};
}

Verdict unsuited(const MoeForwardProblem& problem) {
  if (problem.hidden % 16 != 0)
    return decline("needs a hidden size of whole 16, got " + std::to_string(problem.hidden));
  if (problem.inner != DType::bf16)
    return decline("needs inner of bf16, got " + std::string(to_string(problem.inner)));
  if (problem.intermediate % 128 != 0)
    return decline("needs an intermediate size of whole 128, got " + std::to_string(problem.intermediate));
  return accept;
}

}  // namespace

std::vector<jit::Source> moe_forward_fused_sources(const MoeForwardProblem& problem,
                                                   const cuda::DeviceInfo& device) {
  const Sm90GroupedShape shape = shape_of(problem);
  if (needs_sm90(device) || unsuited(problem) || !better_activated(shape, device)) return {};
  return {sm90_grouped_source(plan_sm90_activated(shape))};
}

Verdict moe_forward_fused_can_run(const MoeForwardProblem& problem, const Context& context) {
  if (Verdict other = unsuited(problem)) return other;
  const Sm90GroupedShape shape = shape_of(problem);
  if (Verdict other = when_named(problem, context, "sm90:activated")) {
    if (!better_activated(shape, cuda::device_context(context).info())) return other;
    for (const std::string_view op : {MGroupedFp8GemmNtProblem::op, SiluMulQuantProblem::op}) {
      std::string name;
      if (detail::forced(context, op, name))
        return decline("needs a free choice of " + std::string(op) + ", got " + name +
                       " by FATHOM_FORCE_IMPL");
    }
  }
  return sm90_grouped_verdict(shape, problem.aligned, context);
}

void moe_gate_up_activated(const MoeForwardProblem& problem, const MGroupedFp8GemmNtArgs& product,
                           const TensorView& h, const TensorView& h_scale, const Context& context) {
  const GroupedTensors tensors{.a = product.a,
                               .a_scale = product.a_scale,
                               .b = product.b,
                               .b_scale = product.b_scale,
                               .rows = product.rows,
                               .out = h,
                               .out_scale = h_scale};
  const Sm90GroupedShape shape = shape_of(problem);
  launch_sm90_grouped(plan_sm90_activated(shape), shape, problem.layout, tensors, context);
}

}  // namespace fathom
