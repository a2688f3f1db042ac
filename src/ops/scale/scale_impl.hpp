// The implementations of scale.
#pragma once
#include "fathom/ops/scale.hpp"

namespace fathom {
void scale_ref(const ScaleProblem& problem, const ScaleArgs& args, const Context& context);
void scale_cpu(const ScaleProblem& problem, const ScaleArgs& args, const Context& context);
}  // namespace fathom
