// Session::generate: prefill, then steps of drafting, verification and commitment until the output ends.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <string>
#include <utility>

#include "engine/sampling/sampler.hpp"
#include "engine/session_impl.hpp"
#include "engine/speculative/draft_length.hpp"
#include "engine/speculative/drafter.hpp"
#include "fathom/core/error.hpp"
#include "fathom/engine/config.hpp"
#include "fathom/engine/session.hpp"

namespace fathom {

std::string_view to_string(FinishReason reason) {
  switch (reason) {
    case FinishReason::eos:
      return "eos";
    case FinishReason::length:
      return "length";
    case FinishReason::cancelled:
      return "cancelled";
  }
  __builtin_unreachable();
}

namespace {

class Stopwatch {
 public:
  /// Seconds since the last call.
  double lap() {
    const auto now = std::chrono::steady_clock::now();
    return std::chrono::duration<double>(now - std::exchange(start_, now)).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

/// Collects output tokens one by one and knows when to stop.
class Output {
 public:
  Output(const GenerateOptions& options, const ModelConfig& config, std::int64_t limit, Generation& result)
      : options_(options), config_(config), limit_(limit), result_(result) {}

  /// Returns false if nothing may follow this token.
  bool add(std::int32_t token) {
    result_.output_ids.push_back(token);
    if (options_.on_token) options_.on_token(token);
    const auto& ends = config_.eos_token_ids;
    if (!options_.ignore_eos && std::find(ends.begin(), ends.end(), token) != ends.end())
      return stop(FinishReason::eos);
    return remaining() > 0 || stop(FinishReason::length);
  }
  bool stop(FinishReason reason) {
    result_.finish_reason = reason;
    return false;
  }
  std::int64_t remaining() const { return limit_ - static_cast<std::int64_t>(result_.output_ids.size()); }

 private:
  const GenerateOptions& options_;
  const ModelConfig& config_;
  std::int64_t limit_;
  Generation& result_;
};

std::int64_t draft_count(const GenerateOptions& options, const Model& model) {
  if (options.draft_tokens < -1 || options.draft_tokens > kMaxDraftTokens) {
    throw InvalidArgument("generate: 'draft_tokens' must be from 0 to 7, got " +
                          std::to_string(options.draft_tokens));
  }
  if (options.draft_tokens > 0 && !model.has_mtp())
    throw InvalidArgument("generate: 'draft_tokens' must be 0 for a model without an MTP layer, got " +
                          std::to_string(options.draft_tokens));
  if (options.draft_tokens >= 0) return options.draft_tokens;
  return model.has_mtp() ? kDefaultDraftTokens : 0;
}

}  // namespace

Generation Session::generate(std::span<const std::int32_t> prompt, const GenerateOptions& options) {
  Impl& s = *impl_;
  s.check_ids("generate", prompt);
  if (options.max_tokens < 1)
    throw InvalidArgument("generate: 'max_tokens' must be at least 1, got " +
                          std::to_string(options.max_tokens));
  const std::int64_t max_drafts = draft_count(options, s.model);
  Sampler sampler(options.sampling, s.context);

  Generation result;
  const auto prompt_size = static_cast<std::int64_t>(prompt.size());
  // The last token of the longest sequence is put out but never fed.
  const std::int64_t room = s.model.config().max_position_embeddings - prompt_size + 1;
  const std::int64_t limit = std::min(options.max_tokens, room);
  Output output(options, s.model.config(), limit, result);
  // Drafts behind the limit are put out by nobody. Yet where tokens are drawn they are made and verified:
  // with fewer of them the last tokens would be drawn otherwise, and a seed's text would depend on its
  // length.
  const std::int64_t draft_limit = options.sampling.temperature > 0 ? room : limit;
  KvCache& cache = s.cache_for(prompt_size + std::min(limit + max_drafts, draft_limit));
  const Impl::Sequence sequence(cache);
  Drafter drafter(s.runner, cache, sequence.id());
  DraftLength draft_length(max_drafts, options.adaptive_drafts);
  Stopwatch stopwatch;

  // Prefill. Row 0 of the states is the hidden state that waits for the token behind it.
  const bool complete = s.prefill(
      sequence.id(), prompt, options.on_prefill, options.cancel,
      [&](std::int64_t begin, const TensorView& hidden) {
        const std::int64_t end = begin + hidden.size(0);
        if (max_drafts > 0) {
          const std::int64_t first =
              std::max<std::int64_t>(begin, 1);  // the first token that has a state before it
          drafter.store(
              ForwardMode::extend, s.states(begin == 0 ? 1 : 0, hidden.size(0)),
              prompt.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(end - first)));
        }
        std::memcpy(s.states(0, 1).data, hidden.rows(hidden.size(0) - 1, hidden.size(0)).data,
                    static_cast<std::size_t>(hidden.size(1)) * sizeof(float));
      });
  if (!complete) {
    output.stop(FinishReason::cancelled);
    return result;
  }
  result.stats.prompt_tokens = prompt_size;
  s.runner.logits(s.states(0, 1), s.logits(1));
  std::int64_t length = prompt_size;  // tokens in the cache; the last token is always one ahead
  std::array<std::int32_t, 1 + kMaxDraftTokens> fed{sampler.next(s.logits(1), length)};
  bool more = output.add(fed[0]);
  result.stats.prefill_seconds = stopwatch.lap();
  const std::int64_t read_before = s.runner.weight_bytes();

  // What the drafter has not seen yet: hidden states, and the tokens one position further.
  TensorView fresh_states = s.states(0, 1);
  std::array<std::int32_t, 1 + kMaxDraftTokens> fresh_tokens{fed[0]};
  while (more) {
    if (options.cancel && options.cancel->load(std::memory_order_relaxed)) {
      output.stop(FinishReason::cancelled);
      break;
    }
    std::int64_t drafts = std::min(draft_length.next(), output.remaining() - 1 + draft_limit - limit);
    cache.reserve(sequence.id(), length + 1 + drafts);
    const auto fresh = std::span(fresh_tokens).first(static_cast<std::size_t>(fresh_states.size(0)));
    if (drafts > 0) {
      const auto next = std::span(fed).subspan(1, static_cast<std::size_t>(drafts));
      drafts = drafter.propose(fresh_states, fresh, next, draft_length.least());
    } else if (max_drafts > 0) {
      drafter.store(ForwardMode::draft_extend, fresh_states, fresh);
    }
    const auto tokens = std::span(fed).first(static_cast<std::size_t>(1 + drafts));
    const TensorView hidden =
        s.step(drafts > 0 ? ForwardMode::target_verify : ForwardMode::decode, sequence.id(), length, tokens);
    const TensorView logits = s.logits(1 + drafts);
    s.runner.logits(hidden, logits);
    const Verdicts verdicts = drafts > 0 ? sampler.verify(logits, tokens.subspan(1), length + 1)
                                         : Verdicts{.next_token = sampler.next(logits, length + 1)};
    // Commit the accepted tokens; the pages of the others are freed, and nobody sees their entries.
    length += 1 + verdicts.accepted;
    cache.set_length(sequence.id(), length);
    fresh_states = hidden.rows(0, 1 + verdicts.accepted);
    std::copy_n(fed.begin() + 1, verdicts.accepted, fresh_tokens.begin());
    fresh_tokens[static_cast<std::size_t>(verdicts.accepted)] = verdicts.next_token;
    fed[0] = verdicts.next_token;
    draft_length.learn(drafts, verdicts.accepted);
    ++result.stats.steps;
    result.stats.drafts_proposed += drafts;
    result.stats.drafts_accepted += verdicts.accepted;
    for (std::int64_t i = 0; more && i <= verdicts.accepted; ++i)
      more = output.add(fresh_tokens[static_cast<std::size_t>(i)]);
  }
  result.stats.output_tokens = static_cast<std::int64_t>(result.output_ids.size());
  result.stats.decode_seconds = stopwatch.lap();
  result.stats.weight_bytes = s.runner.weight_bytes() - read_before;
  return result;
}

}  // namespace fathom
