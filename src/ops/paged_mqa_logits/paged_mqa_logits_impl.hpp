// The implementations of paged_mqa_logits.
#pragma once
#include <utility>
#include <vector>

#include "cuda/driver.hpp"
#include "fathom/ops/paged_mqa_logits.hpp"
#include "jit/jit.hpp"
#include "ops/dispatch.hpp"

namespace fathom {
/// The lengths as [batch, next_n], whichever tensor has them.
inline TensorView paged_mqa_lens(const PagedMqaLogitsProblem& problem, const PagedMqaLogitsArgs& args) {
  if (!problem.flattened) return args.context_lens;
  TensorView lens = args.row_lens;
  lens.rank = 2;
  lens.shape = {problem.batch, problem.next_n};
  lens.stride = {problem.next_n * lens.step(0), lens.step(0)};
  return lens;
}
/// The block table with a row for each request.
inline TensorView paged_mqa_table(const PagedMqaLogitsProblem& problem, const PagedMqaLogitsArgs& args) {
  TensorView table = args.block_table;
  if (table.size(0) != problem.batch) {
    table.shape[0] = problem.batch;
    table.stride[0] *= problem.next_n;
  }
  return table;
}

/// The i-th draft of every request as a call of its own: views.
std::pair<PagedMqaLogitsProblem, PagedMqaLogitsArgs> paged_mqa_draft(const PagedMqaLogitsProblem& problem,
                                                                     const PagedMqaLogitsArgs& args,
                                                                     std::int64_t i);
/// Every draft by itself.
template <void (*kRun)(const PagedMqaLogitsProblem&, const PagedMqaLogitsArgs&, const Context&)>
void paged_mqa_logits_flattened(const PagedMqaLogitsProblem& problem, const PagedMqaLogitsArgs& args,
                                const Context& context) {
  for (std::int64_t i = 0; i < problem.next_n; ++i) {
    const auto [draft, views] = paged_mqa_draft(problem, args, i);
    kRun(draft, views, context);
  }
}
/// Declines where there are no lengths of [batch, next_n].
Verdict paged_mqa_logits_native(const PagedMqaLogitsProblem& problem, const Context& context);

/// Throws as the op does; the problem otherwise.
PagedMqaLogitsProblem paged_mqa_logits_validate(const PagedMqaLogitsArgs& args, Device device);
void paged_mqa_logits_ref(const PagedMqaLogitsProblem& problem, const PagedMqaLogitsArgs& args,
                          const Context& context);
void paged_mqa_logits_cpu(const PagedMqaLogitsProblem& problem, const PagedMqaLogitsArgs& args,
                          const Context& context);
void paged_mqa_logits_simt(const PagedMqaLogitsProblem& problem, const PagedMqaLogitsArgs& args,
                           const Context& context);
Verdict paged_mqa_logits_sm90_can_run(const PagedMqaLogitsProblem& problem, const Context& context);
Verdict paged_mqa_logits_sm90_flattened_can_run(const PagedMqaLogitsProblem& problem, const Context& context);
void paged_mqa_logits_sm90(const PagedMqaLogitsProblem& problem, const PagedMqaLogitsArgs& args,
                           const Context& context);
/// None if it declines the problem.
std::vector<jit::Source> paged_mqa_logits_sm90_kernels(const PagedMqaLogitsProblem& problem,
                                                       const cuda::DeviceInfo& device);
}  // namespace fathom
