// The implementation of mla_absorb.
#pragma once
#include "fathom/ops/mla_absorb.hpp"

namespace fathom {
void mla_absorb_ref(const MlaAbsorbProblem& problem, const MlaAbsorbArgs& args, const Context& context);
}  // namespace fathom
