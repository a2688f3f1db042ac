// The implementations of rms_norm.
#pragma once
#include "fathom/ops/rms_norm.hpp"

namespace fathom {
void rms_norm_ref(const RmsNormProblem& problem, const RmsNormArgs& args, const Context& context);
void rms_norm_cpu(const RmsNormProblem& problem, const RmsNormArgs& args, const Context& context);
void rms_norm_simt(const RmsNormProblem& problem, const RmsNormArgs& args, const Context& context);
}  // namespace fathom
