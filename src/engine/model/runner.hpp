// Runner: passes of the main model and of the MTP layer over a batch, with the memory that takes.
#pragma once
#include <span>

#include "engine/cache/batch_metadata.hpp"
#include "engine/model/arena.hpp"
#include "engine/model/layer.hpp"
#include "fathom/core/context.hpp"
#include "fathom/engine/model.hpp"

namespace fathom {

/// Rows of a call are independent of one another: whatever the batch, a row has the same bytes.
class Runner {
 public:
  Runner(const Model& model, const Context& context);

  /// Feeds tokens[r] at position batch.positions[r], for all rows, to the main model. `hidden` [rows, hidden]
  /// gets the states behind model.norm.
  void forward(const BatchMetadata& batch, std::span<const std::int32_t> tokens, const KvCache& cache,
               const TensorView& hidden);
  /// The MTP layer: row r is fed states[r], the main model's hidden state of its position (or, for drafts
  /// that follow drafts, what this function gave for the position before), and tokens[r], the token one
  /// position further. `hidden` [rows, hidden] gets the states behind the shared head's norm; if it is not
  /// given the layer's caches are written and nothing else happens. So it is for the rows of `stored`, which
  /// come before those of `batch` in tokens and states.
  void forward_mtp(const BatchMetadata& batch, std::span<const std::int32_t> tokens, const TensorView& states,
                   const KvCache& cache, const TensorView& hidden, const BatchMetadata* stored = nullptr);
  /// logits [rows, vocab] of the hidden states that forward() gave, and of those that forward_mtp() gave.
  void logits(const TensorView& hidden, const TensorView& out);
  void logits_mtp(const TensorView& hidden, const TensorView& out);

  /// Bytes of weights read so far, each as often as a product read it: what decoding has to move.
  std::int64_t weight_bytes() const { return weight_bytes_; }

  const Model& model() const { return model_; }
  const Context& context() const { return context_; }
  std::int64_t workspace_bytes() const { return arena_.bytes() + rope_table_.size(); }
  void observe(const LayerObserver* observer) { observer_ = observer; }

 private:
  DecoderLayer layer(std::int64_t index, const BatchMetadata& batch, const KvCache& cache);
  TensorView embed(std::span<const std::int32_t> tokens, const TensorView& embedding);
  TensorView visible_slots(const BatchMetadata& batch);

  const Model& model_;
  const Context& context_;
  Arena arena_;
  Buffer rope_table_;
  std::int64_t rope_positions_ = 0;
  std::int64_t weight_bytes_ = 0;
  const LayerObserver* observer_ = nullptr;
};

}  // namespace fathom
