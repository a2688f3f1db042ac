#include "engine/model/layer.hpp"

#include "fathom/ops/dsa_attention.hpp"
#include "fathom/ops/moe_combine.hpp"
#include "fathom/ops/moe_route.hpp"
#include "fathom/ops/rms_norm.hpp"

namespace fathom {
namespace {

/// Columns [begin, end) of the last axis.
TensorView columns(TensorView x, std::int64_t begin, std::int64_t end) {
  const auto last = static_cast<std::size_t>(x.rank) - 1;
  x.data = x.as<std::byte>() + begin * x.stride[last] * size_of(x.dtype);
  x.shape[last] = end - begin;
  return x;
}

// Scores of one block of rows take at most this much memory.
constexpr std::int64_t kScoreBytes = 4 << 20;

}  // namespace

// x += Attention(RMSNorm(x));  x += FFN(RMSNorm(x))
void DecoderLayer::run(const TensorView& x, const TensorView& visible) {
  attention(x, visible, x);
  const Arena::Scope scope(arena_);
  Activation in = normed(x, w_.post_attention_norm);
  if (w_.is_moe) {
    moe(w_.moe, in, x);
  } else {
    mlp(w_.mlp, in, x);
  }
  if (observer_ && observer_->on_hidden) observer_->on_hidden(index_, x);
}

void DecoderLayer::store(const TensorView& x) { attention(x, {}, {}); }

// x += DSA(RMSNorm(x)); without `out` only the caches are written.
void DecoderLayer::attention(const TensorView& x, const TensorView& visible, const TensorView& out) {
  const Arena::Scope scope(arena_);
  const DsaAttentionWeights& w = w_.attention;
  const TensorView in = arena_.take(DType::f32, {x.size(0), x.size(1)});
  rms_norm({.x = x, .weight = w_.input_norm, .out = in, .epsilon = constants_.epsilon}, context_);
  const bool scored = out.given() && batch_.sparse;
  const bool watched = scored && observer_ && observer_->on_selection;
  DsaAttentionArgs args{
      .x = in,
      .weights = w,
      .metadata = batch_,
      .mode = batch_.mode,
      .cos_sin = rope_table_,
      .kv_cache = cache_.kv(index_),
      .index_cache = cache_.index_keys(index_),
      .max_seqlen_k = batch_.max_seqlen_k,
      .keys = batch_.keys,
      .index_topk = config_.index_topk,
      .score_bytes = kScoreBytes,
      .softmax_scale = constants_.softmax_scale,
      .epsilon = constants_.epsilon,
      .ue8m0 = constants_.index_ue8m0,
      .inner = DType::f32,
      .compute = constants_.precision == Precision::fp8 ? DType::bf16 : DType::f32,
      .indices = visible,
      .out = out,
      .accumulate = out.given(),
  };
  if (watched) {
    const std::int64_t keys = batch_.mode == ForwardMode::extend ? batch_.keys : batch_.max_seqlen_k;
    args.selected = arena_.take(DType::i32, {x.size(0), config_.index_topk});
    args.scores = arena_.take(DType::f32, {x.size(0), keys});
  }
  args.workspace = arena_.take(DType::u8, {dsa_attention_workspace(dsa_attention_problem(args))});
  dsa_attention(args, context_);
  if (watched) observer_->on_selection(index_, args.scores, args.selected);
  for (const Weight* read : {&w.kv_a, &w.index_k}) linear_.count(read->values, read->scale);
  if (!out.given()) return;
  for (const Weight* read : {&w.q_a, &w.q_b, &w.w_uk, &w.w_uv, &w.o})
    linear_.count(read->values, read->scale);
  if (!scored) return;
  linear_.count(w.index_q.values, w.index_q.scale);
  linear_.count(w.head_gate, {});
}

// x += W_down (silu(W_gate in) * W_up in)
void DecoderLayer::mlp(const MlpWeights& w, Activation in, const TensorView& x) {
  const Arena::Scope scope(arena_);
  const std::int64_t width = w.gate.values.size(0);
  const TensorView gate_up = arena_.take(DType::f32, {in.rows(), 2 * width});
  if (w.gate_up.values.given()) {
    linear_(w.gate_up, in, gate_up);
  } else {
    linear_(w.gate, in, columns(gate_up, 0, width));
    linear_(w.up, in, columns(gate_up, width, 2 * width));
  }
  Activation h = linear_.gated(gate_up, w.down.values);
  linear_(w.down, h, x, /*accumulate=*/true);
}

// x += MLP_shared(in) + sum over the chosen experts e of weight_e * MLP_e(in)
void DecoderLayer::moe(const MoeWeights& w, Activation& in, const TensorView& x) {
  const Arena::Scope scope(arena_);
  const std::int64_t tokens = in.rows();
  const std::int64_t experts = config_.n_routed_experts;
  const std::int64_t chosen = config_.num_experts_per_tok;
  const std::int64_t width = config_.moe_intermediate_size;
  const TensorView ids = arena_.take(DType::i32, {tokens, chosen});
  const TensorView weights = arena_.take(DType::f32, {tokens, chosen});
  moe_route({.logits = linear_(w.router, in),
             .correction_bias = w.correction_bias,
             .n_group = config_.n_group,
             .topk_group = config_.topk_group,
             .scoring = config_.scoring_func == "softmax" ? RouterScoring::softmax : RouterScoring::sigmoid,
             .renormalize = config_.norm_topk_prob,
             .routed_scaling = static_cast<float>(config_.routed_scaling_factor),
             .ids = ids,
             .weights = weights},
            context_);

  linear_.prepare(w.gate.values[0], in);
  if (w.shared.gate.values.given()) mlp(w.shared, in, x);

  const TensorView slot_to_row = arena_.take(DType::i32, {tokens, chosen});
  const GroupedRows rows{.offsets = arena_.take(DType::i32, {experts + 1})};
  const Activation routed = linear_.permuted(w.gate.values[0], in, ids, slot_to_row, rows.offsets);
  const TensorView gate_up = arena_.take(DType::f32, {tokens * chosen, 2 * width});
  if (!w.gate_up.values.empty()) {
    linear_.grouped(w.gate_up, routed, rows, gate_up);
  } else {
    linear_.grouped(w.gate, routed, rows, columns(gate_up, 0, width));
    linear_.grouped(w.up, routed, rows, columns(gate_up, width, 2 * width));
  }
  const Activation h = linear_.gated(gate_up, w.down.values[0]);
  const TensorView y = arena_.take(DType::f32, {tokens * chosen, config_.hidden_size});
  linear_.grouped(w.down, h, rows, y);
  moe_combine({.y = y, .slot_to_row = slot_to_row, .weights = weights, .out = x, .accumulate = true},
              context_);
}

Activation DecoderLayer::normed(const TensorView& x, const TensorView& weight) {
  const TensorView out = arena_.take(DType::f32, {x.size(0), x.size(1)});
  rms_norm({.x = x, .weight = weight, .out = out, .epsilon = constants_.epsilon}, context_);
  return {.f32 = out};
}

}  // namespace fathom
