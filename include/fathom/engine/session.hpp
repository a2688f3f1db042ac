// One conversation with a model: prefill, generation with speculative drafts, logits, perplexity.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "fathom/core/context.hpp"
#include "fathom/engine/model.hpp"

namespace fathom {

inline constexpr std::int64_t kMaxDraftTokens = 7;
inline constexpr std::int64_t kDefaultDraftTokens = 3;

struct SessionOptions {
  std::int64_t prefill_chunk = 256;  ///< prompt tokens per step, 0: all; the results do not depend on it
};

struct SamplingOptions {
  float temperature = 0;  ///< 0: the most likely token
  float top_p = 1;
  std::int64_t top_k = 0;  ///< 0: all tokens
  std::uint64_t seed = 0;  ///< a text is the beginning of the one with more max_tokens
};

/// Called with (done, total) tokens.
using ProgressCallback = std::function<void(std::int64_t, std::int64_t)>;

struct GenerateOptions {
  std::int64_t max_tokens = 128;
  SamplingOptions sampling;
  std::int64_t draft_tokens = -1;  ///< drafts per step, 0 to 7; -1: 3 if the model has an MTP layer, else 0
  bool adaptive_drafts = true;     ///< fewer where they are unlikely to be accepted; false: always that many
  bool ignore_eos = false;
  ProgressCallback on_prefill;
  std::function<void(std::int32_t)> on_token;  ///< every output token, in order, as soon as it is certain
  const std::atomic<bool>* cancel = nullptr;   ///< looked at before every step; true ends the generation
};

enum class FinishReason : std::uint8_t { eos, length, cancelled };
std::string_view to_string(FinishReason reason);

struct GenerateStats {
  std::int64_t prompt_tokens = 0;  // that were prefilled
  std::int64_t output_tokens = 0;
  double prefill_seconds = 0;  // up to the first output token
  double decode_seconds = 0;   // of all others
  std::int64_t steps = 0;      // passes of the main model after prefill
  // Sampled text drafts as if it went on: the drafts behind its limit count, the tokens do not.
  std::int64_t drafts_proposed = 0;
  std::int64_t drafts_accepted = 0;
  std::int64_t weight_bytes = 0;  // read by the matrix products of those steps and of drafting
};

struct Generation {
  std::vector<std::int32_t> output_ids;  // ends with the end token if finish_reason is eos
  FinishReason finish_reason = FinishReason::length;
  GenerateStats stats;
};

struct Perplexity {
  double perplexity = 0;               // exp of the mean over all predicted tokens
  double mean_nll = 0;                 // nats
  std::int64_t predicted = 0;          // tokens
  std::vector<double> nll_per_window;  // mean of each
};

/// Of several texts taken together: every predicted token counts the same.
Perplexity pooled(std::span<const Perplexity> parts);

/// Bytes held by a session and its model.
struct MemoryUse {
  std::int64_t weights_mapped = 0;
  std::int64_t weights_derived = 0;
  std::int64_t caches = 0;
  std::int64_t workspace = 0;
};

/// Not for use from several threads at once; the model may be shared by many sessions. Model and context must
/// outlive the session.
class Session {
 public:
  Session(const Model& model, const Context& context, const SessionOptions& options = {});
  ~Session();
  Session(Session&&) noexcept;
  Session& operator=(Session&&) noexcept;

  /// Continues a prompt. Throws InvalidArgument if the prompt is empty, longer than max_position_embeddings
  /// or has an id outside of the vocabulary, or an option is out of range. Ends with FinishReason::length,
  /// too, when max_position_embeddings is reached.
  Generation generate(std::span<const std::int32_t> prompt, const GenerateOptions& options);

  /// The logits of the last `last` positions: [last, vocab_size], row-major. Throws as generate does, and if
  /// `last` is not 1 .. ids.
  std::vector<float> logits(std::span<const std::int32_t> ids, std::int64_t last,
                            const ProgressCallback& on_progress = {});

  /// How well the model predicts every token of every window from those before it in its window. A last
  /// window of one token predicts nothing and is left out. Throws as generate does, and if window < 2.
  Perplexity perplexity(std::span<const std::int32_t> ids, std::int64_t window = 1024,
                        const ProgressCallback& on_progress = {});

  MemoryUse memory() const;

  struct Impl;

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace fathom
