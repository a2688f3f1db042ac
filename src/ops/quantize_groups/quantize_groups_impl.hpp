// The implementations of quantize_groups.
#pragma once
#include "fathom/ops/quantize_groups.hpp"

namespace fathom {
void quantize_groups_ref(const QuantizeGroupsProblem& problem, const QuantizeGroupsArgs& args,
                         const Context& context);
void quantize_groups_cpu(const QuantizeGroupsProblem& problem, const QuantizeGroupsArgs& args,
                         const Context& context);
void quantize_groups_simt(const QuantizeGroupsProblem& problem, const QuantizeGroupsArgs& args,
                          const Context& context);
}  // namespace fathom
