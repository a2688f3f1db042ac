// Drafter: proposes the next tokens of one sequence with the model's MTP layer.
#pragma once
#include <span>
#include <vector>

#include "engine/cache/batch_metadata.hpp"
#include "engine/model/runner.hpp"
#include "fathom/engine/cache.hpp"

namespace fathom {

/// The MTP layer's row i takes the main model's hidden state of position i and token i + 1. So the last state
/// of what the main model has seen waits until the token after it is known. Rows [0, rows()) of the MTP
/// caches are valid; what drafting writes beyond is overwritten by the next commit.
class Drafter {
 public:
  Drafter(Runner& runner, KvCache& cache, SequenceId sequence)
      : runner_(runner), cache_(cache), sequence_(sequence) {}

  std::int64_t rows() const { return rows_; }
  /// Rows [rows(), rows() + tokens) get their cache entries, which is all that later rows need of them:
  /// mode extend in prefill, draft_extend for rows just committed. states [tokens, hidden].
  void store(ForwardMode mode, const TensorView& states, std::span<const std::int32_t> tokens);
  /// After verification: stores the committed rows and proposes up to drafts.size() tokens that may follow
  /// the last of `tokens`. Returns their number: the chain ends behind a draft to which the layer itself
  /// gives a probability below `least`. The sequence must have pages for rows() + tokens + drafts.size().
  std::int64_t propose(const TensorView& states, std::span<const std::int32_t> tokens,
                       std::span<std::int32_t> drafts, float least);

 private:
  void build(BatchMetadata& batch, ForwardMode mode, std::int64_t prefix, std::int64_t extend);

  Runner& runner_;
  KvCache& cache_;
  SequenceId sequence_;
  std::int64_t rows_ = 0;
  BatchMetadata batch_;
  BatchMetadata stored_;
  std::vector<float> hidden_;
  std::vector<float> logits_;
};

}  // namespace fathom
