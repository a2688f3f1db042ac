// The implementations of mqa_logits.
#pragma once
#include "fathom/ops/mqa_logits.hpp"

namespace fathom {
void mqa_logits_ref(const MqaLogitsProblem& problem, const MqaLogitsArgs& args, const Context& context);
void mqa_logits_cpu(const MqaLogitsProblem& problem, const MqaLogitsArgs& args, const Context& context);
}  // namespace fathom
