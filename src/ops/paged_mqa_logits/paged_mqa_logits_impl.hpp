// The implementations of paged_mqa_logits.
#pragma once
#include "fathom/ops/paged_mqa_logits.hpp"

namespace fathom {
void paged_mqa_logits_ref(const PagedMqaLogitsProblem& problem, const PagedMqaLogitsArgs& args,
                          const Context& context);
void paged_mqa_logits_cpu(const PagedMqaLogitsProblem& problem, const PagedMqaLogitsArgs& args,
                          const Context& context);
}  // namespace fathom
