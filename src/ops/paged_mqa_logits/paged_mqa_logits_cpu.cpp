#include <algorithm>
#include <vector>

#include "cpu/mqa.hpp"
#include "ops/cache_layout.hpp"
#include "ops/paged_mqa_logits/paged_mqa_logits_impl.hpp"
#include "ops/paged_mqa_schedule/paged_mqa_schedule_impl.hpp"

namespace fathom {
namespace {

class Worker {
 public:
  Worker(const PagedMqaLogitsProblem& problem, const PagedMqaLogitsArgs& args)
      : problem_(problem),
        args_(args),
        cache_{args.cache},
        scorer_(problem.q, problem.heads, problem.head_dim, problem.next_n) {}

  // Pages [begin, end) of request b, which has `keys` keys.
  void run(std::int64_t b, std::int64_t keys, std::int64_t begin, std::int64_t end) {
    set_queries(b);
    const std::int64_t last = std::min(keys, end * kIndexKeyPageTokens);
    for (std::int64_t j = begin * kIndexKeyPageTokens; j < last; j += kIndexKeyPageTokens)
      score_page(b, j, std::min(kIndexKeyPageTokens, last - j), j + kIndexKeyPageTokens < last);
    if (last < keys) return;
    for (std::int64_t i = 0; i < problem_.next_n; ++i)
      cpu::fill_minus_infinity(logits(b, i) + keys, logits(b, i) + problem_.max_len);
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

// A score depends on its query and its key alone, so any split will do. The schedule's 256 keys are too
// coarse for a few threads and a context of some hundred keys: pages are shared out evenly instead, in a few
// runs a thread, since every run packs its queries.
void paged_mqa_logits_cpu(const PagedMqaLogitsProblem& problem, const PagedMqaLogitsArgs& args,
                          const Context& context) {
  thread_local std::vector<std::int64_t> kept;  // no allocation once it is warm
  std::vector<std::int64_t>& before = kept;     // this thread's, also where another one reads it
  before.assign(1, 0);                          // pages of the requests before each
  for (std::int64_t b = 0; b < problem.batch; ++b) {
    // A request without a key has a page, too, so that its rows are filled.
    const std::int64_t keys = std::max<std::int64_t>(scheduled_keys(args.context_lens, b), 1);
    before.push_back(before.back() + (keys + kIndexKeyPageTokens - 1) / kIndexKeyPageTokens);
  }
  const std::int64_t runs = 2 * context.threads();
  context.parallel_for(
      before.back(), (before.back() + runs - 1) / runs, [&](std::int64_t begin, std::int64_t end) {
        Worker worker(problem, args);
        std::int64_t b = std::upper_bound(before.begin(), before.end(), begin) - before.begin() - 1;
        for (; b < problem.batch && before[static_cast<std::size_t>(b)] < end; ++b) {
          const std::int64_t first = before[static_cast<std::size_t>(b)];
          const std::int64_t next = before[static_cast<std::size_t>(b) + 1];
          worker.run(b, scheduled_keys(args.context_lens, b), std::max(begin, first) - first,
                     std::min(end, next) - first);
        }
      });
}

}  // namespace fathom
