#include <vector>

#include "cpu/mqa.hpp"
#include "ops/cache_layout.hpp"
#include "ops/paged_mqa_logits/paged_mqa_logits_impl.hpp"
#include "ops/paged_mqa_schedule/paged_mqa_schedule_impl.hpp"

namespace fathom {
namespace {

using Place = std::pair<std::int64_t, std::int64_t>;  // request, split

class Worker {
 public:
  Worker(const PagedMqaLogitsProblem& problem, const PagedMqaLogitsArgs& args)
      : problem_(problem),
        args_(args),
        cache_{args.cache},
        scorer_(problem.q, problem.heads, problem.head_dim, problem.next_n) {}

  // All splits from `from` up to `to`.
  void run(Place from, Place to) {
    for (std::int64_t b = from.first; b <= to.first && b < problem_.batch; ++b) {
      const std::int64_t keys = scheduled_keys(args_.context_lens, b);
      const std::int64_t splits = (keys + kPagedMqaSplitKeys - 1) / kPagedMqaSplitKeys;
      const std::int64_t begin = b == from.first ? from.second : 0;
      const std::int64_t end = b == to.first ? to.second : splits;
      if (begin >= end) continue;
      set_queries(b);
      const std::int64_t last = std::min(keys, end * kPagedMqaSplitKeys);
      for (std::int64_t j = begin * kPagedMqaSplitKeys; j < last; j += kIndexKeyPageTokens)
        score_page(b, j, std::min(kIndexKeyPageTokens, last - j), j + kIndexKeyPageTokens < last);
      if (end == splits) {
        for (std::int64_t i = 0; i < problem_.next_n; ++i)
          cpu::fill_minus_infinity(logits(b, i) + keys, logits(b, i) + problem_.max_len);
      }
    }
  }

 private:
  float* logits(std::int64_t b, std::int64_t i) const {
    return args_.logits.as<float>() + (b * problem_.next_n + i) * args_.logits.step(0);
  }

  void set_queries(std::int64_t b) {
    for (std::int64_t i = 0; i < problem_.next_n; ++i) {
      const std::int64_t offset = b * args_.q.step(0) + i * args_.q.step(1);
      scorer_.set_query(
          i, {.data = args_.q.as<std::byte>() + offset * size_of(problem_.q),
              .head_stride = args_.q.step(2),
              .weights = args_.weights.as<float>() + (b * problem_.next_n + i) * args_.weights.step(0)});
    }
  }

  // Positions [j, j + count) of request b: one page. The next one comes from memory meanwhile.
  void score_page(std::int64_t b, std::int64_t j, std::int64_t count, bool more) {
    const std::int64_t page = int_at(args_.block_table, b, j / kIndexKeyPageTokens);
    if (problem_.q == DType::f8e4m3) {
      scorer_.set_keys({cache_.key_f8(page, 0), kIndexKeyDim, cache_.scale(page, 0), count});
    } else {
      scorer_.set_keys({cache_.key_f32(page, 0), args_.cache.step(1), nullptr, count});
    }
    if (more) {
      const std::int64_t next = int_at(args_.block_table, b, j / kIndexKeyPageTokens + 1);
      const std::int64_t page_bytes = args_.cache.step(0) * size_of(args_.cache.dtype);
      const auto* bytes = args_.cache.as<const char>() + next * page_bytes;
      for (std::int64_t i = 0; i < page_bytes; i += 64) __builtin_prefetch(bytes + i);
    }
    for (std::int64_t i = 0; i < problem_.next_n; ++i) {
      const std::int64_t seen = std::clamp<std::int64_t>(int_at(args_.context_lens, b, i) - j, 0, count);
      scorer_.score(i, 0, seen, logits(b, i) + j);
      cpu::fill_minus_infinity(logits(b, i) + j + seen, logits(b, i) + j + count);
    }
  }

  const PagedMqaLogitsProblem& problem_;
  const PagedMqaLogitsArgs& args_;
  IndexCache cache_;
  cpu::MqaScorer scorer_;
};

}  // namespace

void paged_mqa_logits_cpu(const PagedMqaLogitsProblem& problem, const PagedMqaLogitsArgs& args,
                          const Context& context) {
  // Requests without a key have no split that would fill their rows.
  for (std::int64_t b = 0; b < problem.batch; ++b) {
    if (scheduled_keys(args.context_lens, b) > 0) continue;
    for (std::int64_t i = 0; i < problem.next_n; ++i) {
      float* row = args.logits.as<float>() + (b * problem.next_n + i) * args.logits.step(0);
      cpu::fill_minus_infinity(row, row + problem.max_len);
    }
  }
  thread_local std::vector<Place> kept;  // no allocation once it is warm
  std::vector<Place>& places = kept;     // this thread's, also where another one reads it
  places.clear();
  if (args.schedule.given()) {
    for (std::int64_t w = 0; w < args.schedule.size(0); ++w)
      places.emplace_back(int_at(args.schedule, w, 0), int_at(args.schedule, w, 1));
  } else {
    // A few shares a thread, so that none waits long for another.
    const std::int64_t workers = context.threads() == 1 ? 1 : 4 * context.threads();
    PagedMqaScheduleRows rows(args.context_lens, workers);
    for (std::int64_t w = 0; w <= workers; ++w) places.push_back(rows.next());
  }
  context.parallel_for(static_cast<std::int64_t>(places.size()) - 1, 1,
                       [&](std::int64_t begin, std::int64_t end) {
                         const Place from = places[static_cast<std::size_t>(begin)];
                         const Place to = places[static_cast<std::size_t>(end)];
                         if (from != to) Worker(problem, args).run(from, to);
                       });
}

}  // namespace fathom
