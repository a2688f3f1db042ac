// The implementations of mqa_logits.
#pragma once
#include <vector>

#include "cuda/driver.hpp"
#include "fathom/ops/mqa_logits.hpp"
#include "jit/jit.hpp"
#include "ops/dispatch.hpp"

namespace fathom {
/// Throws as the op does; the problem otherwise.
MqaLogitsProblem mqa_logits_validate(const MqaLogitsArgs& args, Device device);
void mqa_logits_ref(const MqaLogitsProblem& problem, const MqaLogitsArgs& args, const Context& context);
void mqa_logits_cpu(const MqaLogitsProblem& problem, const MqaLogitsArgs& args, const Context& context);
void mqa_logits_simt(const MqaLogitsProblem& problem, const MqaLogitsArgs& args, const Context& context);
Verdict mqa_logits_sm90_can_run(const MqaLogitsProblem& problem, const Context& context);
void mqa_logits_sm90(const MqaLogitsProblem& problem, const MqaLogitsArgs& args, const Context& context);
/// None if it declines the problem.
std::vector<jit::Source> mqa_logits_sm90_kernels(const MqaLogitsProblem& problem,
                                                 const cuda::DeviceInfo& device);
}  // namespace fathom
