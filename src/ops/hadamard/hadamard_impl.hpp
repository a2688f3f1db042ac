// The implementations of hadamard.
#pragma once
#include "fathom/ops/hadamard.hpp"

namespace fathom {
void hadamard_ref(const HadamardProblem& problem, const HadamardArgs& args, const Context& context);
void hadamard_cpu(const HadamardProblem& problem, const HadamardArgs& args, const Context& context);
}  // namespace fathom
