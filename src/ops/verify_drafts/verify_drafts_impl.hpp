// The implementations of verify_drafts.
#pragma once
#include "fathom/ops/verify_drafts.hpp"

namespace fathom {
void verify_drafts_ref(const VerifyDraftsProblem& problem, const VerifyDraftsArgs& args,
                       const Context& context);
void verify_drafts_cpu(const VerifyDraftsProblem& problem, const VerifyDraftsArgs& args,
                       const Context& context);
}  // namespace fathom
