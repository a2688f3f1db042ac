#include "engine/speculative/drafter.hpp"

#include "engine/sampling/sampler.hpp"
#include "fathom/engine/config.hpp"

namespace fathom {

void Drafter::build(BatchMetadata& batch, ForwardMode mode, std::int64_t prefix, std::int64_t extend) {
  const BatchRequest request{.sequence = sequence_, .prefix = prefix, .extend = extend};
  batch.build(mode, {&request, 1}, cache_, runner_.model().config().index_topk, runner_.context());
}

void Drafter::store(ForwardMode mode, const TensorView& states, std::span<const std::int32_t> tokens) {
  const auto count = static_cast<std::int64_t>(tokens.size());
  if (count == 0) return;
  build(stored_, mode, rows_, count);
  runner_.forward_mtp(stored_, tokens, states, cache_, {});
  rows_ += count;
}

std::int64_t Drafter::propose(const TensorView& states, std::span<const std::int32_t> tokens,
                              std::span<std::int32_t> drafts, float least) {
  const std::int64_t width = runner_.model().config().hidden_size;
  const std::int64_t vocab = runner_.model().config().vocab_size;
  const std::int64_t last = static_cast<std::int64_t>(tokens.size()) - 1;
  hidden_.resize(static_cast<std::size_t>(width));
  logits_.resize(static_cast<std::size_t>(vocab));
  const TensorView logits = TensorView::contiguous(logits_.data(), DType::f32, {1, vocab});
  const TensorView hidden = TensorView::contiguous(hidden_.data(), DType::f32, {1, width});

  if (last > 0) build(stored_, ForwardMode::draft_extend, rows_, last);
  build(batch_, ForwardMode::decode, rows_ + last, 1);
  runner_.forward_mtp(batch_, tokens, states, cache_, hidden, last > 0 ? &stored_ : nullptr);
  rows_ += last + 1;
  for (std::size_t i = 0; i < drafts.size(); ++i) {
    if (i > 0) {  // the layer's own state and draft stand in for the main model's
      build(batch_, ForwardMode::decode, rows_ + static_cast<std::int64_t>(i) - 1, 1);
      runner_.forward_mtp(batch_, drafts.subspan(i - 1, 1), hidden, cache_, hidden);
    }
    runner_.logits_mtp(hidden, logits);
    const bool asked = least > 0 && i + 1 < drafts.size();
    float share = 1;
    drafts[i] = argmax(logits, runner_.context(), asked ? &share : nullptr);
    if (share < least) return static_cast<std::int64_t>(i) + 1;
  }
  return static_cast<std::int64_t>(drafts.size());
}

}  // namespace fathom
