// The implementations of paged_mqa_logits.
#pragma once
#include <vector>

#include "cuda/driver.hpp"
#include "fathom/ops/paged_mqa_logits.hpp"
#include "jit/jit.hpp"
#include "ops/dispatch.hpp"

namespace fathom {
void paged_mqa_logits_ref(const PagedMqaLogitsProblem& problem, const PagedMqaLogitsArgs& args,
                          const Context& context);
void paged_mqa_logits_cpu(const PagedMqaLogitsProblem& problem, const PagedMqaLogitsArgs& args,
                          const Context& context);
void paged_mqa_logits_simt(const PagedMqaLogitsProblem& problem, const PagedMqaLogitsArgs& args,
                           const Context& context);
Verdict paged_mqa_logits_sm90_can_run(const PagedMqaLogitsProblem& problem, const Context& context);
void paged_mqa_logits_sm90(const PagedMqaLogitsProblem& problem, const PagedMqaLogitsArgs& args,
                           const Context& context);
/// None if it declines the problem.
std::vector<jit::Source> paged_mqa_logits_sm90_kernels(const PagedMqaLogitsProblem& problem,
                                                       const cuda::DeviceInfo& device);
}  // namespace fathom
