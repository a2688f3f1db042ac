// The implementations of moe_route.
#pragma once
#include "fathom/ops/moe_route.hpp"
#include "ops/dispatch.hpp"

namespace fathom {
void moe_route_ref(const MoeRouteProblem& problem, const MoeRouteArgs& args, const Context& context);
void moe_route_cpu(const MoeRouteProblem& problem, const MoeRouteArgs& args, const Context& context);
Verdict moe_route_cpu_can_run(const MoeRouteProblem& problem, const Context& context);
void moe_route_simt(const MoeRouteProblem& problem, const MoeRouteArgs& args, const Context& context);
Verdict moe_route_simt_can_run(const MoeRouteProblem& problem, const Context& context);
}  // namespace fathom
