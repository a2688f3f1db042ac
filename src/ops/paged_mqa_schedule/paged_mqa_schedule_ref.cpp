#include "ops/cache_layout.hpp"
#include "ops/paged_mqa_schedule/paged_mqa_schedule_impl.hpp"

namespace fathom {
namespace {
std::int64_t splits_of(const TensorView& context_lens, std::int64_t request) {
  if (request >= context_lens.size(0)) return 0;
  return (scheduled_keys(context_lens, request) + kPagedMqaSplitKeys - 1) / kPagedMqaSplitKeys;
}
}  // namespace

std::int64_t scheduled_keys(const TensorView& context_lens, std::int64_t request) {
  std::int64_t keys = 0;
  for (std::int64_t i = 0; i < context_lens.size(1); ++i)
    keys = std::max<std::int64_t>(keys, int_at(context_lens, request, i));
  return keys;
}

PagedMqaScheduleRows::PagedMqaScheduleRows(const TensorView& context_lens, std::int64_t workers)
    : context_lens_(context_lens), workers_(workers), splits_(splits_of(context_lens, 0)) {
  for (std::int64_t b = 0; b < context_lens.size(0); ++b) total_ += splits_of(context_lens, b);
}

std::pair<std::int64_t, std::int64_t> PagedMqaScheduleRows::next() {
  const std::int64_t start = worker_ * (total_ / workers_) + std::min(worker_, total_ % workers_);
  ++worker_;
  while (request_ < context_lens_.size(0) && before_ + splits_ <= start) {
    before_ += splits_;
    splits_ = splits_of(context_lens_, ++request_);
  }
  return {request_, start - before_};
}

void paged_mqa_schedule_ref(const PagedMqaScheduleProblem& problem, const PagedMqaScheduleArgs& args,
                            const Context&) {
  PagedMqaScheduleRows rows(args.context_lens, problem.workers);
  auto* out = args.schedule.as<std::int32_t>();
  for (std::int64_t w = 0; w <= problem.workers; ++w) {
    const auto [request, split] = rows.next();
    *out++ = static_cast<std::int32_t>(request);
    *out++ = static_cast<std::int32_t>(split);
  }
}

}  // namespace fathom
