// The implementations of index_key_gather.
#pragma once
#include "fathom/ops/index_key_gather.hpp"
#include "ops/dispatch.hpp"

namespace fathom {
void index_key_gather_ref(const IndexKeyGatherProblem& problem, const IndexKeyGatherArgs& args,
                          const Context& context);
void index_key_gather_simt(const IndexKeyGatherProblem& problem, const IndexKeyGatherArgs& args,
                           const Context& context);
}  // namespace fathom
