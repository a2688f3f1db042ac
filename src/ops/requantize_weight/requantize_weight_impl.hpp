// The implementations of requantize_weight.
#pragma once
#include "fathom/ops/requantize_weight.hpp"

namespace fathom {
void requantize_weight_ref(const RequantizeWeightProblem& problem, const RequantizeWeightArgs& args,
                           const Context& context);
void requantize_weight_cpu(const RequantizeWeightProblem& problem, const RequantizeWeightArgs& args,
                           const Context& context);
}  // namespace fathom
