// The implementations of moe_permute.
#pragma once
#include "fathom/ops/moe_permute.hpp"

namespace fathom {
void moe_permute_ref(const MoePermuteProblem& problem, const MoePermuteArgs& args, const Context& context);
void moe_permute_cpu(const MoePermuteProblem& problem, const MoePermuteArgs& args, const Context& context);
}  // namespace fathom
