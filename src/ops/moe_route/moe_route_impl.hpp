// The implementations of moe_route.
#pragma once
#include "fathom/ops/moe_route.hpp"

namespace fathom {
void moe_route_ref(const MoeRouteProblem& problem, const MoeRouteArgs& args, const Context& context);
}  // namespace fathom
