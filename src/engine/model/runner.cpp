#include "engine/model/runner.hpp"

#include <algorithm>

#include "engine/model/linear.hpp"
#include "engine/model/model_impl.hpp"
#include "fathom/ops/copy_rows.hpp"
#include "fathom/ops/rms_norm.hpp"
#include "fathom/ops/top_k.hpp"

namespace fathom {

Runner::Runner(const Model& model, const Context& context) : model_(model), context_(context) {}

void Runner::forward(const BatchMetadata& batch, std::span<const std::int32_t> tokens, const KvCache& cache,
                     const TensorView& hidden) {
  if (batch.rows == 0) return;
  const Model::Impl& m = model_.impl();
  const Arena::Scope scope(arena_);
  const TensorView x = embed(tokens, m.weights.embedding);
  const TensorView visible = visible_slots(batch);
  for (std::int64_t index = 0; index < model_.config().num_hidden_layers; ++index)
    layer(index, batch, cache).run(x, visible);
  rms_norm({.x = x, .weight = m.weights.norm, .out = hidden, .epsilon = m.constants.epsilon}, context_);
}

// x_i = W_eh [RMSNorm(embed(t_i+1)), RMSNorm(h_i)], then one decoder layer at position i.
void Runner::forward_mtp(const BatchMetadata& batch, std::span<const std::int32_t> tokens,
                         const TensorView& states, const KvCache& cache, const TensorView& hidden,
                         const BatchMetadata* stored) {
  if (batch.rows == 0) return;
  const std::int64_t before = stored != nullptr ? stored->rows : 0;
  const std::int64_t rows = before + batch.rows;
  const Model::Impl& m = model_.impl();
  const MtpWeights& w = m.weights.mtp;
  const std::int64_t width = model_.config().hidden_size;
  const Arena::Scope scope(arena_);
  const TensorView both = arena_.take(DType::f32, {rows, 2 * width});
  TensorView left = both, right = both;
  left.shape[1] = right.shape[1] = width;
  right.data = both.as<float>() + width;
  rms_norm({.x = embed(tokens, w.embedding), .weight = w.enorm, .out = left, .epsilon = m.constants.epsilon},
           context_);
  rms_norm({.x = states, .weight = w.hnorm, .out = right, .epsilon = m.constants.epsilon}, context_);
  Activation in{.f32 = both};
  const Linear linear(m.constants.precision, arena_, context_, weight_bytes_);
  const TensorView x = linear(w.eh_proj, in);
  const std::int64_t index = model_.config().num_hidden_layers;
  if (before > 0) layer(index, *stored, cache).store(x.rows(0, before));
  DecoderLayer decoder = layer(index, batch, cache);
  const TensorView last = x.rows(before, rows);
  if (!hidden.given()) return decoder.store(last);
  copy_rows({.x = last, .out = hidden}, context_);
  decoder.run(hidden, visible_slots(batch));
}

void Runner::logits(const TensorView& hidden, const TensorView& out) {
  const Model::Impl& m = model_.impl();
  const Arena::Scope scope(arena_);
  Activation in{.f32 = hidden};
  Linear(m.constants.precision, arena_, context_, weight_bytes_)(m.weights.head, in, out);
}

void Runner::logits_mtp(const TensorView& hidden, const TensorView& out) {
  const Model::Impl& m = model_.impl();
  const Arena::Scope scope(arena_);
  Activation in{.f32 = arena_.take(DType::f32, {hidden.size(0), hidden.size(1)})};
  rms_norm({.x = hidden, .weight = m.weights.mtp.norm, .out = in.f32, .epsilon = m.constants.epsilon},
           context_);
  Linear(m.constants.precision, arena_, context_, weight_bytes_)(m.weights.mtp.head, in, out);
}

DecoderLayer Runner::layer(std::int64_t index, const BatchMetadata& batch, const KvCache& cache) {
  const Model::Impl& m = model_.impl();
  if (batch.max_seqlen_k > rope_positions_) {
    const std::int64_t most = std::max(batch.max_seqlen_k, model_.config().max_position_embeddings);
    rope_positions_ = std::min(most, std::max<std::int64_t>(4096, 2 * batch.max_seqlen_k));
    rope_table_ = make_rope_table(m.rope, rope_positions_);
  }
  return DecoderLayer(m.constants, m.weights.layers[static_cast<std::size_t>(index)], index, batch, cache,
                      rope_table_.view(DType::f32, {rope_positions_, m.rope.dim}), arena_, context_,
                      observer_, weight_bytes_);
}

TensorView Runner::embed(std::span<const std::int32_t> tokens, const TensorView& embedding) {
  const auto rows = static_cast<std::int64_t>(tokens.size());
  const TensorView x = arena_.take(DType::f32, {rows, embedding.size(1)});
  const auto ids = TensorView::contiguous(const_cast<std::int32_t*>(tokens.data()), DType::i32, {rows});
  copy_rows({.x = embedding, .rows = ids, .out = x}, context_);
  return x;
}

/// The slots of every position that a row sees, if that is at most index_topk for all rows: the same for
/// every layer, and no score is needed.
TensorView Runner::visible_slots(const BatchMetadata& batch) {
  if (batch.sparse) return {};
  const TensorView slots = arena_.take(DType::i32, {batch.rows, batch.max_seqlen_k});
  top_k({.lengths = batch.seqlens_expanded,
         .transform = TopKTransform::paged,
         .block_table = batch.block_table,
         .requests = batch.requests,
         .out = slots},
        context_);
  return slots;
}

}  // namespace fathom
