#include "cpu/mqa.hpp"
#include "cpu/scratch.hpp"
#include "ops/cache_layout.hpp"
#include "ops/mqa_logits/mqa_logits_impl.hpp"

namespace fathom {
namespace {

// A task: this many tokens against this many keys. Packing both costs a few percent of scoring them.
constexpr std::int64_t kTaskTokens = 16;
constexpr std::int64_t kTaskKeys = 512;

struct Window {
  std::int64_t first, last;
};

// The part of token t's window that lies in [begin, end), empty as (begin, begin).
Window window_of(const MqaLogitsArgs& args, std::int64_t t, std::int64_t begin, std::int64_t end) {
  const std::int64_t first = std::clamp<std::int64_t>(integer_at(args.first, t), begin, end);
  return {first, std::clamp<std::int64_t>(integer_at(args.last, t), first, end)};
}

void score_task(const MqaLogitsProblem& problem, const MqaLogitsArgs& args, std::int64_t token,
                std::int64_t tokens, std::int64_t begin, std::int64_t end) {
  Window windows[kTaskTokens];
  Window any{end, begin};  // what some token of the task sees
  for (std::int64_t i = 0; i < tokens; ++i) {
    windows[i] = window_of(args, token + i, begin, end);
    float* row = args.logits.as<float>() + (token + i) * args.logits.step(0);
    cpu::fill_minus_infinity(row + begin, row + windows[i].first);
    cpu::fill_minus_infinity(row + windows[i].last, row + end);
    if (windows[i].first == windows[i].last) continue;
    any = {std::min(any.first, windows[i].first), std::max(any.last, windows[i].last)};
  }
  if (any.first >= any.last) return;

  cpu::MqaScorer scorer(problem.q, problem.heads, problem.head_dim, tokens);
  for (std::int64_t i = 0; i < tokens; ++i) {
    if (windows[i].first == windows[i].last) continue;
    scorer.set_query(i, {.data = args.q.as<std::byte>() + (token + i) * args.q.step(0) * size_of(problem.q),
                         .head_stride = args.q.step(1),
                         .weights = args.weights.as<float>() + (token + i) * args.weights.step(0)});
  }
  for (std::int64_t j = any.first; j < any.last; j += cpu::kMqaTileKeys) {
    const std::int64_t count = std::min(cpu::kMqaTileKeys, any.last - j);
    scorer.set_keys({.data = args.k.as<std::byte>() + j * args.k.step(0) * size_of(problem.q),
                     .stride = args.k.step(0),
                     .scales = args.k_scale.given() ? args.k_scale.as<float>() + j : nullptr,
                     .count = count});
    for (std::int64_t i = 0; i < tokens; ++i) {
      float* row = args.logits.as<float>() + (token + i) * args.logits.step(0);
      scorer.score(i, std::max<std::int64_t>(windows[i].first - j, 0), std::min(windows[i].last - j, count),
                   row + j);
    }
  }
}

}  // namespace

void mqa_logits_cpu(const MqaLogitsProblem& problem, const MqaLogitsArgs& args, const Context& context) {
  const std::int64_t token_blocks = (problem.tokens + kTaskTokens - 1) / kTaskTokens;
  const std::int64_t key_blocks = (problem.keys + kTaskKeys - 1) / kTaskKeys;
  context.parallel_for(token_blocks * key_blocks, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t task = begin; task < end; ++task) {
      const std::int64_t token = task / key_blocks * kTaskTokens;
      const std::int64_t key = task % key_blocks * kTaskKeys;
      score_task(problem, args, token, std::min(kTaskTokens, problem.tokens - token), key,
                 std::min(key + kTaskKeys, problem.keys));
    }
  });
}

}  // namespace fathom
