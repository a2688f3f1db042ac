// The implementations of sample.
#pragma once
#include "fathom/ops/sample.hpp"

namespace fathom {
void sample_ref(const SampleProblem& problem, const SampleArgs& args, const Context& context);
void sample_cpu(const SampleProblem& problem, const SampleArgs& args, const Context& context);
}  // namespace fathom
