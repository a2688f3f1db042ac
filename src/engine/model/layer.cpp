#include "engine/model/layer.hpp"

#include <algorithm>
#include <cmath>

#include "fathom/ops/batched_gemm_nt.hpp"
#include "fathom/ops/copy_rows.hpp"
#include "fathom/ops/hadamard.hpp"
#include "fathom/ops/head_gate.hpp"
#include "fathom/ops/index_key_gather.hpp"
#include "fathom/ops/index_key_store.hpp"
#include "fathom/ops/layer_norm.hpp"
#include "fathom/ops/mla_cache_store.hpp"
#include "fathom/ops/moe_combine.hpp"
#include "fathom/ops/moe_route.hpp"
#include "fathom/ops/mqa_logits.hpp"
#include "fathom/ops/paged_mqa_logits.hpp"
#include "fathom/ops/quantize_groups.hpp"
#include "fathom/ops/rms_norm.hpp"
#include "fathom/ops/rope.hpp"
#include "fathom/ops/sparse_mla.hpp"
#include "fathom/ops/top_k.hpp"

namespace fathom {
namespace {

/// Columns [begin, end) of the last axis.
TensorView columns(TensorView x, std::int64_t begin, std::int64_t end) {
  const auto last = static_cast<std::size_t>(x.rank) - 1;
  x.data = x.as<std::byte>() + begin * x.stride[last] * size_of(x.dtype);
  x.shape[last] = end - begin;
  return x;
}

/// [rows, heads * dim] as [rows, heads, dim].
TensorView heads_of(TensorView x, std::int64_t heads) {
  const std::int64_t dim = x.shape[1] / heads;
  x.rank = 3;
  x.shape = {x.shape[0], heads, dim};
  x.stride = {x.stride[0], dim, 1};
  return x;
}

/// A contiguous tensor in another shape.
TensorView reshaped(const TensorView& x, std::initializer_list<std::int64_t> shape) {
  return TensorView::contiguous(x.data, x.dtype, shape);
}

// Scores of one block of rows take at most this much memory.
constexpr std::int64_t kScoreElements = 1 << 20;

}  // namespace

// x += Attention(RMSNorm(x));  x += FFN(RMSNorm(x))
void DecoderLayer::run(const TensorView& x, const TensorView& visible) {
  attention(x, visible);
  const Arena::Scope scope(arena_);
  Activation in = normed(x, w_.post_attention_norm);
  if (w_.is_moe) {
    moe(w_.moe, in, x);
  } else {
    mlp(w_.mlp, in, x);
  }
  if (observer_ && observer_->on_hidden) observer_->on_hidden(index_, x);
}

void DecoderLayer::store(const TensorView& x) {
  const Arena::Scope scope(arena_);
  Activation in = normed(x, w_.input_norm);
  store_latent(in);
  store_index_key(in);
}

// Multi-head latent attention in its absorbed form: queries are taken into the latent space of the cache
// (W_uk), attend there to the selected positions, and the sums of latents are taken out of it (W_uv).
//   c_q = RMSNorm(W_qa x)   q = W_qb c_q = [q_nope, RoPE(q_rope)]   c_kv, k_rope = W_kva x
//   o = softmax(scale * [W_uk^T q_nope, q_rope] [c_kv, k_rope]^T) c_kv       x += W_o W_uv o
void DecoderLayer::attention(const TensorView& x, const TensorView& visible) {
  const Arena::Scope scope(arena_);
  const AttentionWeights& w = w_.attention;
  const std::int64_t rows = x.size(0);
  const std::int64_t heads = config_.num_attention_heads;
  const std::int64_t nope = config_.qk_nope_head_dim;
  const std::int64_t lora = config_.kv_lora_rank;
  const std::int64_t width = lora + config_.qk_rope_head_dim;
  // The dtype of attention itself, unless the cache asks for more.
  const DType dtype = constants_.precision == Precision::fp8 ? DType::bf16 : DType::f32;
  const DType query_dtype = cache_.shape().kv == KvFormat::f32 ? DType::f32 : dtype;

  Activation in = normed(x, w_.input_norm);
  store_latent(in);
  Activation q_latent = normed(linear_(w.q_a, in), w.q_a_norm);    // [rows, q_lora]
  const TensorView q = heads_of(linear_(w.q_b, q_latent), heads);  // [rows, heads, nope + rope]
  rotate(q, nope, /*half_split=*/false);
  store_index_key(in);
  const TensorView selected = batch_.sparse ? select(in, q_latent) : visible;  // [rows, k]

  TensorView q_nope = columns(q, 0, nope);
  if (dtype != DType::f32) {
    q_nope = arena_.take(dtype, {rows, heads, nope});
    copy_rows({.x = columns(q, 0, nope), .out = q_nope}, context_);
  }
  const TensorView query = arena_.take(query_dtype, {rows, heads, width});
  linear_.count(w.w_uk.values, w.w_uk.scale);
  batched_gemm_nt({.x = q_nope, .w = w.w_uk.values, .out = columns(query, 0, lora), .w_scale = w.w_uk.scale},
                  context_);
  copy_rows({.x = columns(q, nope, config_.qk_head_dim()), .out = columns(query, lora, width)}, context_);

  const TensorView attended = arena_.take(dtype, {rows, heads, lora});
  sparse_mla({.q = query,
              .cache = cache_.kv(index_),
              .indices = selected,
              .softmax_scale = constants_.softmax_scale,
              .out = attended},
             context_);
  const TensorView values = arena_.take(DType::f32, {rows, heads, config_.v_head_dim});
  linear_.count(w.w_uv.values, w.w_uv.scale);
  batched_gemm_nt({.x = attended, .w = w.w_uv.values, .out = values, .w_scale = w.w_uv.scale}, context_);
  Activation out{.f32 = reshaped(values, {rows, heads * config_.v_head_dim})};
  linear_(w.o, out, x, /*accumulate=*/true);
}

void DecoderLayer::store_latent(Activation& in) {
  const std::int64_t lora = config_.kv_lora_rank;
  const TensorView kv = linear_(w_.attention.kv_a, in);  // [rows, lora + rope]
  const TensorView latent = columns(kv, 0, lora);
  const TensorView k_rope = columns(kv, lora, lora + config_.qk_rope_head_dim);
  rms_norm({.x = latent, .weight = w_.attention.kv_a_norm, .out = latent, .epsilon = constants_.epsilon},
           context_);
  rotate(heads_of(k_rope, 1), 0, /*half_split=*/false);
  mla_cache_store({.latent = latent, .rope = k_rope, .slots = batch_.slots, .cache = cache_.kv(index_)},
                  context_);
}

void DecoderLayer::store_index_key(Activation& in) {
  const IndexerWeights& w = w_.indexer;
  const TensorView k = linear_(w.k, in);  // [rows, index_dim]
  layer_norm({.x = k, .weight = w.k_norm, .bias = w.k_norm_bias, .out = k}, context_);
  rotate(heads_of(k, 1), 0, /*half_split=*/true);
  if (constants_.index_fp8) hadamard({.x = k, .out = k}, context_);
  index_key_store(
      {.k = k, .slots = batch_.slots, .cache = cache_.index_keys(index_), .ue8m0 = constants_.index_ue8m0},
      context_);
}

// The lightning indexer: a few small heads score every visible position; the best index_topk are attended to.
//   q = RoPE(W_qb c_q)   k = RoPE(LayerNorm(W_k x))   g = W_g x   I[t, s] = sum_h g[t, h] relu(q[t, h] k[s])
TensorView DecoderLayer::select(Activation& in, Activation& q_latent) {
  const IndexerWeights& w = w_.indexer;
  const std::int64_t rows = in.rows();
  const std::int64_t heads = config_.index_n_heads;
  const std::int64_t dim = config_.index_head_dim;
  TensorView q = linear_(w.q_b, q_latent);  // [rows, heads * dim]
  rotate(heads_of(q, heads), 0, /*half_split=*/true);
  TensorView q_scale;
  if (constants_.index_fp8) {
    const TensorView flat = reshaped(q, {rows * heads, dim});
    hadamard({.x = flat, .out = flat}, context_);
    q = arena_.take(DType::f8e4m3, {rows * heads, dim});
    q_scale = arena_.take(DType::f32, {rows, heads});
    quantize_groups({.x = flat,
                     .q = q,
                     .scale = reshaped(q_scale, {rows * heads, 1}),
                     .rule = QuantRule::indexer,
                     .scale_format = constants_.index_ue8m0 ? ScaleFormat::ue8m0 : ScaleFormat::f32},
                    context_);
  }
  const TensorView gate = arena_.take(DType::f32, {rows, heads});
  linear_.count(w.head_gate, {});
  head_gate({.x = linear_.prepare(w.head_gate, in),
             .w = w.head_gate,
             .q_scale = q_scale,
             .out = gate,
             .softmax_scale = 1 / std::sqrt(static_cast<float>(dim))},
            context_);
  return score_and_choose(reshaped(q, {rows, heads, dim}), gate);
}

TensorView DecoderLayer::score_and_choose(const TensorView& q, const TensorView& gate) {
  const std::int64_t rows = q.size(0);
  const std::int64_t k = std::min(config_.index_topk, batch_.max_seqlen_k);
  const bool ragged = batch_.mode == ForwardMode::extend;
  const std::int64_t keys = ragged ? batch_.keys : batch_.max_seqlen_k;
  const TensorView selected = arena_.take(DType::i32, {rows, k});
  const TensorView& lengths = batch_.seqlens_expanded;
  const TensorView& requests = batch_.requests;
  const Arena::Scope scope(arena_);

  // Prefill gathers the keys of all requests once and scores them in blocks of rows; the other modes read
  // pages.
  TensorView all_keys, key_scales, starts, ends;
  if (ragged) {
    all_keys = arena_.take(q.dtype, {keys, q.size(2)});
    if (constants_.index_fp8) key_scales = arena_.take(DType::f32, {keys});
    starts = batch_.ks;
    ends = batch_.score_ends;
    index_key_gather({.cache = cache_.index_keys(index_),
                      .block_table = batch_.block_table,
                      .lens = batch_.cache_seqlens,
                      .keys = all_keys,
                      .scales = key_scales},
                     context_);
  }
  const std::int64_t block = ragged ? std::clamp<std::int64_t>(kScoreElements / keys, 1, rows) : rows;
  const TensorView scores = arena_.take(DType::f32, {block, keys});
  for (std::int64_t first = 0; first < rows; first += block) {
    const std::int64_t last = std::min(rows, first + block);
    const TensorView part = scores.rows(0, last - first);
    if (ragged) {
      mqa_logits({.q = q.rows(first, last),
                  .k = all_keys,
                  .k_scale = key_scales,
                  .weights = gate.rows(first, last),
                  .first = starts.rows(first, last),
                  .last = ends.rows(first, last),
                  .logits = part},
                 context_);
    } else {
      paged_mqa_logits({.q = TensorView::contiguous(
                            q.data, q.dtype, {batch_.paged_batch, batch_.next_n, q.size(1), q.size(2)}),
                        .cache = cache_.index_keys(index_),
                        .weights = gate,
                        .context_lens = batch_.context_lens(),
                        .block_table = batch_.paged_block_table(),
                        .schedule = batch_.schedule,
                        .logits = part},
                       context_);
    }
    top_k({.scores = part,
           .lengths = lengths.rows(first, last),
           .starts = ragged ? starts.rows(first, last) : TensorView{},
           .transform = TopKTransform::paged,
           .block_table = batch_.block_table,
           .requests = requests.rows(first, last),
           .out = selected.rows(first, last)},
          context_);
    if (observer_ && observer_->on_selection)
      observer_->on_selection(index_, first, part, selected.rows(first, last));
  }
  return selected;
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

void DecoderLayer::rotate(const TensorView& heads, std::int64_t offset, bool half_split) {
  rope({.x = heads,
        .positions = batch_.positions,
        .cos_sin = rope_table_,
        .offset = offset,
        .style = half_split ? RopeStyle::half_split : RopeStyle::interleaved},
       context_);
}

}  // namespace fathom
