#include <algorithm>
#include <cstring>
#include <vector>

#include "cpu/mqa.hpp"
#include "ops/cache_layout.hpp"
#include "ops/paged_mqa_logits/paged_mqa_logits_impl.hpp"
#include "ops/paged_mqa_schedule/paged_mqa_schedule_impl.hpp"

namespace fathom {
namespace {

using cpu::kMqaTileKeys;

class Worker {
 public:
  Worker(const PagedMqaLogitsProblem& problem, const PagedMqaLogitsArgs& args)
      : problem_(problem),
        args_(args),
        cache_{args.cache, problem.page, problem.head_dim},
        table_(paged_mqa_table(problem, args)),
        scorer_(problem.q, problem.heads, problem.head_dim, problem.next_n) {}

  // Tiles [begin, end) of request b, which has `keys` keys.
  void run(std::int64_t b, std::int64_t keys, std::int64_t begin, std::int64_t end) {
    set_queries(b);
    const std::int64_t last = std::min(keys, end * kMqaTileKeys);
    for (std::int64_t j = begin * kMqaTileKeys; j < last; j += kMqaTileKeys) {
      if (j + kMqaTileKeys < last) prefetch(b, j + kMqaTileKeys);
      score_tile(b, j, std::min(kMqaTileKeys, last - j));
    }
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

  std::int64_t page_of(std::int64_t b, std::int64_t j) const { return int_at(table_, b, j / problem_.page); }

  // Positions [j, j + count) of one page.
  cpu::MqaKeys keys_of(std::int64_t page, std::int64_t j, std::int64_t count) const {
    const std::int64_t entry = j % problem_.page;
    if (problem_.q == DType::f32) return {cache_.key_f32(page, entry), args_.cache.step(1), nullptr, count};
    return {cache_.key_f8(page, entry), problem_.head_dim, cache_.scale(page, entry), count};
  }

  // The tile at j comes from memory while the one before is scored.
  void prefetch(std::int64_t b, std::int64_t j) const {
    const std::int64_t page = page_of(b, j);
    if (page < 0) return;
    const cpu::MqaKeys keys = keys_of(page, j, std::min(problem_.page, kMqaTileKeys));
    const auto* bytes = static_cast<const char*>(keys.data);
    const std::int64_t size = keys.count * keys.stride * size_of(problem_.q);
    for (std::int64_t i = 0; i < size; i += 64) __builtin_prefetch(bytes + i);
  }

  // Keys [j, j + count) of request b on small pages, side by side; zeros where there is no page.
  cpu::MqaKeys collect(std::int64_t b, std::int64_t j, std::int64_t count) {
    const std::int64_t bytes = problem_.head_dim * size_of(problem_.q);
    static thread_local std::vector<std::byte> keys;
    keys.assign(static_cast<std::size_t>(kMqaTileKeys * bytes), std::byte{0});
    std::fill(scales_, scales_ + kMqaTileKeys, 0.0f);
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t page = page_of(b, j + i);
      if (page < 0) continue;
      const cpu::MqaKeys key = keys_of(page, j + i, 1);
      std::memcpy(keys.data() + i * bytes, key.data, static_cast<std::size_t>(bytes));
      if (key.scales != nullptr) scales_[i] = load_f32(key.scales);
    }
    return {keys.data(), problem_.head_dim, problem_.q == DType::f32 ? nullptr : scales_, count};
  }

  // Positions [j, j + count) of request b, up to 64 on as many pages as they take.
  void score_tile(std::int64_t b, std::int64_t j, std::int64_t count) {
    const std::int64_t part = std::min(problem_.page, kMqaTileKeys);
    const std::int64_t page = page_of(b, j);
    const bool whole = part == kMqaTileKeys;
    if (whole && page >= 0) scorer_.set_keys(keys_of(page, j, count));
    if (!whole) scorer_.set_keys(collect(b, j, count));
    for (std::int64_t i = 0; i < problem_.next_n; ++i) {
      float* out = logits(b, i) + j;
      const std::int64_t seen = std::clamp<std::int64_t>(int_at(args_.context_lens, b, i) - j, 0, count);
      if (!whole || page >= 0) scorer_.score(i, 0, seen, out);
      cpu::fill_minus_infinity(out + seen, out + count);
      for (std::int64_t p = 0; p < seen; p += part) {
        if (page_of(b, j + p) < 0) cpu::fill_minus_infinity(out + p, out + std::min(p + part, seen));
      }
    }
  }

  const PagedMqaLogitsProblem& problem_;
  const PagedMqaLogitsArgs& args_;
  IndexCache cache_;
  TensorView table_;
  cpu::MqaScorer scorer_;
  float scales_[kMqaTileKeys];
};

}  // namespace

// A score depends on its query and its key alone, so any split will do. The schedule's 256 keys are too
// coarse for a few threads and a context of some hundred keys: tiles are shared out evenly instead, in a few
// runs a thread, since every run packs its queries.
void paged_mqa_logits_cpu(const PagedMqaLogitsProblem& problem, const PagedMqaLogitsArgs& args,
                          const Context& context) {
  thread_local std::vector<std::int64_t> kept;  // no allocation once it is warm
  std::vector<std::int64_t>& before = kept;     // this thread's, also where another one reads it
  before.assign(1, 0);                          // tiles of the requests before each
  for (std::int64_t b = 0; b < problem.batch; ++b) {
    // A request without a key has a tile, too, so that its rows are filled.
    const std::int64_t keys = std::max<std::int64_t>(scheduled_keys(args.context_lens, b), 1);
    before.push_back(before.back() + (keys + kMqaTileKeys - 1) / kMqaTileKeys);
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
