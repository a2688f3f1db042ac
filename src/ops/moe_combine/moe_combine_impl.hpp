// The implementations of moe_combine.
#pragma once
#include "fathom/ops/moe_combine.hpp"

namespace fathom {
void moe_combine_ref(const MoeCombineProblem& problem, const MoeCombineArgs& args, const Context& context);
void moe_combine_cpu(const MoeCombineProblem& problem, const MoeCombineArgs& args, const Context& context);
void moe_combine_simt(const MoeCombineProblem& problem, const MoeCombineArgs& args, const Context& context);
}  // namespace fathom
