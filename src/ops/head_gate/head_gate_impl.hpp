// The implementations of head_gate.
#pragma once
#include "fathom/ops/head_gate.hpp"

namespace fathom {
void head_gate_ref(const HeadGateProblem& problem, const HeadGateArgs& args, const Context& context);
void head_gate_cpu(const HeadGateProblem& problem, const HeadGateArgs& args, const Context& context);
}  // namespace fathom
