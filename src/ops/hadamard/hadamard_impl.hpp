// The implementations of hadamard.
#pragma once
#include "fathom/ops/hadamard.hpp"
#include "ops/dispatch.hpp"

namespace fathom {
void hadamard_ref(const HadamardProblem& problem, const HadamardArgs& args, const Context& context);
void hadamard_cpu(const HadamardProblem& problem, const HadamardArgs& args, const Context& context);
Verdict hadamard_simt_can_run(const HadamardProblem& problem, const Context& context);
void hadamard_simt(const HadamardProblem& problem, const HadamardArgs& args, const Context& context);
}  // namespace fathom
