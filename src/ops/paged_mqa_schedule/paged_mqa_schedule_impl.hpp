// The implementations of paged_mqa_schedule.
#pragma once
#include <utility>

#include "fathom/ops/paged_mqa_schedule.hpp"

namespace fathom {
void paged_mqa_schedule_ref(const PagedMqaScheduleProblem& problem, const PagedMqaScheduleArgs& args,
                            const Context& context);
void paged_mqa_schedule_simt(const PagedMqaScheduleProblem& problem, const PagedMqaScheduleArgs& args,
                             const Context& context);

/// The length that a request's splits must cover: the largest of its row of context_lens, at least 0.
std::int64_t scheduled_keys(const TensorView& context_lens, std::int64_t request);

/// The rows of a schedule, one after the other, workers + 1 of them.
class PagedMqaScheduleRows {
 public:
  PagedMqaScheduleRows(const TensorView& context_lens, std::int64_t workers);
  /// The request and the split where the next worker starts.
  std::pair<std::int64_t, std::int64_t> next();

 private:
  const TensorView& context_lens_;
  std::int64_t workers_;
  std::int64_t total_ = 0;
  std::int64_t worker_ = 0;
  std::int64_t request_ = 0;
  std::int64_t before_ = 0;  // splits of the requests before request_
  std::int64_t splits_ = 0;  // splits of request_
};
}  // namespace fathom
