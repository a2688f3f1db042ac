// The implementations of moe_permute.
#pragma once
#include "fathom/ops/moe_permute.hpp"
#include "ops/dispatch.hpp"

namespace fathom {
void moe_permute_ref(const MoePermuteProblem& problem, const MoePermuteArgs& args, const Context& context);
void moe_permute_cpu(const MoePermuteProblem& problem, const MoePermuteArgs& args, const Context& context);
void moe_permute_simt(const MoePermuteProblem& problem, const MoePermuteArgs& args, const Context& context);
Verdict moe_permute_simt_can_run(const MoePermuteProblem& problem, const Context& context);
}  // namespace fathom
