// dsa_attention as a chain of ops. Each of them chooses its implementation for the context's device, so that
// the chain is the same on host and device.
#include <cmath>

#include "fathom/ops/batched_gemm_nt.hpp"
#include "fathom/ops/bf16_gemm_nt.hpp"
#include "fathom/ops/copy_rows.hpp"
#include "fathom/ops/fp8_gemm_nt.hpp"
#include "fathom/ops/hadamard.hpp"
#include "fathom/ops/head_gate.hpp"
#include "fathom/ops/index_key_gather.hpp"
#include "fathom/ops/index_key_prepare.hpp"
#include "fathom/ops/index_key_store.hpp"
#include "fathom/ops/index_query_prepare.hpp"
#include "fathom/ops/layer_norm.hpp"
#include "fathom/ops/linear_bf16_fp32.hpp"
#include "fathom/ops/linear_f32.hpp"
#include "fathom/ops/mla_cache_store.hpp"
#include "fathom/ops/mla_prepare.hpp"
#include "fathom/ops/mqa_logits.hpp"
#include "fathom/ops/paged_mqa_logits.hpp"
#include "fathom/ops/quantize_groups.hpp"
#include "fathom/ops/rms_norm.hpp"
#include "fathom/ops/rope.hpp"
#include "fathom/ops/sparse_mla.hpp"
#include "fathom/ops/top_k.hpp"
#include "ops/dsa_attention/dsa_attention_impl.hpp"
#include "ops/validate.hpp"

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
  return TensorView::contiguous(x.data, x.dtype, shape, x.device);
}

/// What products read, in the formats that their weights ask for; each is made on first use.
struct Input {
  TensorView x;  // f32 or bf16
  TensorView f8, scale;
  TensorView bf16;
  bool has_f8 = false, has_bf16 = false;
};

class Chain {
 public:
  Chain(const DsaAttentionProblem& problem, const DsaAttentionArgs& args, const Context& context)
      : p_(problem),
        args_(args),
        w_(args.weights),
        m_(args.metadata),
        context_(context),
        parts_(problem),
        decode_(problem.mode != ForwardMode::extend),
        in_one_(prepares_in_one(problem, context.device())),
        down_(part(parts_.down, p_.inner, {p_.rows, parts_.columns})) {}

  void run() {
    Input in{.x = args_.x,
             .f8 = part(parts_.x, DType::f8e4m3, {p_.rows, p_.hidden}),
             .scale = part(parts_.x_scale, DType::f32, {p_.rows, scale_groups(p_.hidden)}),
             .bf16 = part(parts_.x_bf16, DType::bf16, {p_.rows, p_.hidden})};
    const TensorView q_latent = columns(down_, 0, p_.q_lora);
    const TensorView kv = columns(down_, parts_.kv_column, parts_.kv_column + p_.lora + p_.rope);
    const TensorView index_k = columns(down_, parts_.index_column, parts_.index_column + p_.index_dim);
    if (p_.joined > 1) {
      const std::int64_t end = p_.joined == 3 ? parts_.columns : parts_.index_column;
      Weight all = w_.q_a;
      all.values.shape[0] = end;
      all.scale.shape[0] = all.scale.given() ? scale_groups(end) : 0;
      product(all, in, columns(down_, 0, end));
    } else {
      if (!p_.store_only) product(w_.q_a, in, q_latent);
      product(w_.kv_a, in, kv);
    }
    if (p_.joined < 3) product(w_.index_k, in, index_k);
    store_index_key(index_k);
    if (!in_one_ || p_.store_only) store_latent(kv);
    if (!p_.store_only) attend(in, q_latent, kv);
  }

 private:
  TensorView part(std::int64_t begin, DType dtype, std::initializer_list<std::int64_t> shape) const {
    return TensorView::contiguous(args_.workspace.as<std::byte>() + begin, dtype, shape, context_.device());
  }

  const TensorView& bf16_of(Input& in) const {
    if (in.x.dtype == DType::bf16) return in.x;
    if (!in.has_bf16) copy_rows({.x = in.x, .out = in.bf16}, context_);
    in.has_bf16 = true;
    return in.bf16;
  }

  // out = in * w^T, or out += with accumulate
  void product(const Weight& w, Input& in, const TensorView& out, bool accumulate = false) const {
    const DType dtype = w.values.dtype;
    if (p_.compute == DType::f32 || dtype == DType::f32) {
      linear_f32({.x = in.x, .w = w.values, .w_scale = w.scale, .out = out, .accumulate = accumulate},
                 context_);
    } else if (dtype == DType::f8e4m3) {
      if (!in.has_f8) {
        quantize_groups({.x = in.x, .q = in.f8, .scale = in.scale, .rule = QuantRule::per_token_group},
                        context_);
      }
      in.has_f8 = true;
      fp8_gemm_nt({.a = in.f8,
                   .a_scale = in.scale,
                   .b = w.values,
                   .b_scale = w.scale,
                   .out = out,
                   .accumulate = accumulate,
                   .decode = decode_},
                  context_);
    } else if (out.dtype == DType::f32 && !accumulate) {
      linear_bf16_fp32({.x = bf16_of(in), .w = w.values, .out = out, .decode = decode_}, context_);
    } else {
      bf16_gemm_nt({.a = bf16_of(in), .b = w.values, .out = out, .accumulate = accumulate, .decode = decode_},
                   context_);
    }
  }

  void rotate(const TensorView& heads, std::int64_t offset, RopeStyle style) const {
    rope({.x = heads, .positions = m_.positions, .cos_sin = args_.cos_sin, .offset = offset, .style = style},
         context_);
  }

  /// With queries: their rotated columns go to `query`.
  void store_latent(const TensorView& kv, const TensorView& q = {}, const TensorView& query = {}) const {
    const TensorView latent = columns(kv, 0, p_.lora);
    const TensorView k_rope = columns(kv, p_.lora, p_.lora + p_.rope);
    if (in_one_) {
      mla_prepare({.latent = latent,
                   .rope = k_rope,
                   .weight = w_.kv_a_norm,
                   .positions = m_.positions,
                   .cos_sin = args_.cos_sin,
                   .slots = m_.slots,
                   .cache = args_.kv_cache,
                   .q = q,
                   .q_out = query,
                   .epsilon = args_.epsilon},
                  context_);
      return;
    }
    rms_norm({.x = latent, .weight = w_.kv_a_norm, .out = latent, .epsilon = args_.epsilon}, context_);
    rotate(heads_of(k_rope, 1), 0, RopeStyle::interleaved);
    mla_cache_store({.latent = latent, .rope = k_rope, .slots = m_.slots, .cache = args_.kv_cache}, context_);
  }

  void store_index_key(const TensorView& k) const {
    if (in_one_) {
      index_key_prepare({.k = k,
                         .weight = w_.index_k_norm,
                         .bias = w_.index_k_norm_bias,
                         .positions = m_.positions,
                         .cos_sin = args_.cos_sin,
                         .slots = m_.slots,
                         .cache = args_.index_cache,
                         .hadamard = p_.index == DType::u8,
                         .ue8m0 = p_.ue8m0},
                        context_);
      return;
    }
    layer_norm({.x = k, .weight = w_.index_k_norm, .bias = w_.index_k_norm_bias, .out = k}, context_);
    rotate(heads_of(k, 1), 0, RopeStyle::half_split);
    if (p_.index == DType::u8) hadamard({.x = k, .out = k}, context_);
    index_key_store({.k = k, .slots = m_.slots, .cache = args_.index_cache, .ue8m0 = p_.ue8m0}, context_);
  }

  void attend(Input& in, const TensorView& latent, const TensorView& kv) const {
    rms_norm({.x = latent, .weight = w_.q_a_norm, .out = latent, .epsilon = args_.epsilon}, context_);
    Input q_latent{.x = latent,
                   .f8 = part(parts_.q_latent, DType::f8e4m3, {p_.rows, p_.q_lora}),
                   .scale = part(parts_.q_latent_scale, DType::f32, {p_.rows, scale_groups(p_.q_lora)}),
                   .bf16 = part(parts_.q_latent_bf16, DType::bf16, {p_.rows, p_.q_lora})};
    const TensorView flat = part(parts_.q, p_.inner, {p_.rows, p_.heads * (p_.nope + p_.rope)});
    product(w_.q_b, q_latent, flat);
    const TensorView q = heads_of(flat, p_.heads);
    if (!in_one_) rotate(q, p_.nope, RopeStyle::interleaved);
    output(q, p_.sparse() ? chosen(in, q_latent) : visible(), kv);
  }

  // The slots of all that every row sees.
  TensorView visible() const {
    if (args_.indices.given()) return args_.indices;
    const TensorView slots = part(parts_.indices, DType::i32, {p_.rows, p_.top_k()});
    TopKArgs all{.lengths = m_.seqlens_expanded, .out = slots, .page = p_.page};
    if (p_.batch > 0) {  // else there is no table, and nothing is seen
      all.transform = TopKTransform::paged;
      all.block_table = m_.block_table;
      all.requests = m_.requests;
    }
    top_k(all, context_);
    return slots;
  }

  TensorView chosen(Input& in, Input& q_latent) const {
    TensorView q = part(parts_.index_q, p_.inner, {p_.rows, p_.index_heads * p_.index_dim});
    product(w_.index_q, q_latent, q);
    TensorView q_scale;
    if (p_.index == DType::u8) q_scale = part(parts_.index_q_scale, DType::f32, {p_.rows, p_.index_heads});
    const bool in_one = in_one_ && p_.index == DType::u8;
    if (in_one) {
      const TensorView codes =
          part(parts_.index_q_f8, DType::f8e4m3, {p_.rows, p_.index_heads, p_.index_dim});
      index_query_prepare({.q = heads_of(q, p_.index_heads),
                           .positions = m_.positions,
                           .cos_sin = args_.cos_sin,
                           .out = codes,
                           .scale = q_scale,
                           .ue8m0 = p_.ue8m0},
                          context_);
      q = codes;
    } else {
      rotate(heads_of(q, p_.index_heads), 0, RopeStyle::half_split);
    }
    if (p_.index == DType::u8 && !in_one) {
      const TensorView flat = reshaped(q, {p_.rows * p_.index_heads, p_.index_dim});
      hadamard({.x = flat, .out = flat}, context_);
      q = part(parts_.index_q_f8, DType::f8e4m3, {p_.rows * p_.index_heads, p_.index_dim});
      quantize_groups({.x = flat,
                       .q = q,
                       .scale = reshaped(q_scale, {p_.rows * p_.index_heads, 1}),
                       .rule = QuantRule::indexer,
                       .scale_format = p_.ue8m0 ? ScaleFormat::ue8m0 : ScaleFormat::f32},
                      context_);
    }
    const TensorView gate = part(parts_.gate, DType::f32, {p_.rows, p_.index_heads});
    const bool f32 = p_.compute == DType::f32 || w_.head_gate.dtype == DType::f32;
    head_gate({.x = f32 ? in.x : bf16_of(in),
               .w = w_.head_gate,
               .q_scale = q_scale,
               .out = gate,
               .softmax_scale = 1 / std::sqrt(static_cast<float>(p_.index_dim)),
               .decode = decode_},
              context_);
    const TensorView selected =
        args_.selected.given() ? args_.selected : part(parts_.indices, DType::i32, {p_.rows, p_.top_k()});
    const TensorView queries = reshaped(q, {p_.rows, p_.index_heads, p_.index_dim});
    if (p_.mode == ForwardMode::extend) {
      choose_from_windows(queries, gate, selected);
    } else {
      choose_from_pages(queries, gate, selected);
    }
    return selected;
  }

  /// Calls score(first, last, scores [last - first, width]) and chooses, for so many rows at a time as the
  /// workspace holds scores of.
  template <class Score>
  void choose(std::int64_t width, const TensorView& starts, const TensorView& selected,
              const Score& score) const {
    for (std::int64_t first = 0; first < p_.rows; first += parts_.score_rows) {
      const std::int64_t last = std::min(p_.rows, first + parts_.score_rows);
      const TensorView all = args_.scores.given()
                                 ? args_.scores.rows(first, last)
                                 : part(parts_.scores, DType::f32, {last - first, parts_.score_pitch});
      const TensorView scores = columns(all, 0, width);
      score(first, last, scores);
      top_k({.scores = scores,
             .lengths = m_.seqlens_expanded.rows(first, last),
             .starts = starts.given() ? starts.rows(first, last) : starts,
             .transform = TopKTransform::paged,
             .block_table = m_.block_table,
             .requests = m_.requests.rows(first, last),
             .out = selected.rows(first, last),
             .page = p_.page},
            context_);
    }
  }

  // The keys of all requests are gathered once.
  void choose_from_windows(const TensorView& q, const TensorView& gate, const TensorView& selected) const {
    // On a host the number of keys is at hand; a device drops what is behind them.
    const std::int64_t keys =
        on_host(context_.device()) ? m_.cu_seqlens_k.as<std::int32_t>()[p_.batch] : p_.keys;
    const TensorView all = part(parts_.keys, q.dtype, {keys, p_.index_dim});
    const TensorView scales =
        p_.index == DType::u8 ? part(parts_.key_scales, DType::f32, {keys}) : TensorView{};
    index_key_gather({.cache = args_.index_cache,
                      .block_table = m_.block_table,
                      .lens = m_.cache_seqlens,
                      .keys = all,
                      .scales = scales},
                     context_);
    choose(keys, m_.ks, selected, [&](std::int64_t first, std::int64_t last, const TensorView& scores) {
      mqa_logits({.q = q.rows(first, last),
                  .k = all,
                  .k_scale = scales,
                  .weights = gate.rows(first, last),
                  .first = m_.ks.rows(first, last),
                  .last = m_.score_ends.rows(first, last),
                  .logits = scores},
                 context_);
    });
  }

  void choose_from_pages(const TensorView& q, const TensorView& gate, const TensorView& selected) const {
    const std::int64_t next_n = p_.packed ? 1 : p_.rows / p_.batch;
    const TensorView& table = p_.packed ? m_.row_block_table : m_.block_table;
    const auto score = [&](std::int64_t first, std::int64_t last, const TensorView& scores) {
      const std::int64_t batch = (last - first) / next_n;
      paged_mqa_logits(
          {.q = reshaped(q.rows(first, last), {batch, next_n, p_.index_heads, p_.index_dim}),
           .cache = args_.index_cache,
           .weights = gate.rows(first, last),
           .context_lens = reshaped(m_.seqlens_expanded.rows(first, last), {batch, next_n}),
           .block_table = table.rows(first / next_n, last / next_n),
           .schedule = last - first == p_.rows ? m_.schedule : TensorView{},  // which is for all requests
           .logits = scores},
          context_);
    };
    choose(p_.max_seqlen_k, {}, selected, score);
  }

  // q is rotated, unless keys and queries are prepared in one; every row attends to the slots of its list.
  void output(const TensorView& q, const TensorView& slots, const TensorView& kv) const {
    const std::int64_t width = p_.lora + p_.rope;
    TensorView q_nope = columns(q, 0, p_.nope);
    if (p_.compute != p_.inner) {
      q_nope = part(parts_.q_nope, p_.compute, {p_.rows, p_.heads, p_.nope});
      copy_rows({.x = columns(q, 0, p_.nope), .out = q_nope}, context_);
    }
    const DType query_dtype = p_.kv == DType::f32 ? DType::f32 : p_.compute;
    const TensorView query = part(parts_.query, query_dtype, {p_.rows, p_.heads, width});
    batched_gemm_nt(
        {.x = q_nope, .w = w_.w_uk.values, .out = columns(query, 0, p_.lora), .w_scale = w_.w_uk.scale},
        context_);
    const TensorView q_rope = columns(q, p_.nope, p_.nope + p_.rope);
    if (in_one_) {
      store_latent(kv, q_rope, columns(query, p_.lora, width));
    } else {
      copy_rows({.x = q_rope, .out = columns(query, p_.lora, width)}, context_);
    }
    const TensorView attended = part(parts_.attended, p_.compute, {p_.rows, p_.heads, p_.lora});
    sparse_mla({.q = query,
                .cache = args_.kv_cache,
                .indices = slots,
                .softmax_scale = args_.softmax_scale,
                .out = attended,
                .lengths = m_.topk_lens,
                .decode = decode_},
               context_);
    const TensorView values = part(parts_.values, p_.inner, {p_.rows, p_.heads, p_.value});
    batched_gemm_nt({.x = attended, .w = w_.w_uv.values, .out = values, .w_scale = w_.w_uv.scale}, context_);
    const std::int64_t all = p_.heads * p_.value;
    Input in{.x = reshaped(values, {p_.rows, all}),
             .f8 = part(parts_.values_f8, DType::f8e4m3, {p_.rows, all}),
             .scale = part(parts_.values_scale, DType::f32, {p_.rows, scale_groups(all)}),
             .bf16 = part(parts_.values_bf16, DType::bf16, {p_.rows, all})};
    product(w_.o, in, args_.out, p_.accumulate);
  }

  const DsaAttentionProblem& p_;
  const DsaAttentionArgs& args_;
  const DsaAttentionWeights& w_;
  const DsaMetadata& m_;
  const Context& context_;
  DsaAttentionParts parts_;
  bool decode_;  // the class of the products
  bool in_one_;
  TensorView down_;
};

}  // namespace

void dsa_attention_chain(const DsaAttentionProblem& problem, const DsaAttentionArgs& args,
                         const Context& context) {
  if (problem.rows > 0) Chain(problem, args, context).run();
}

}  // namespace fathom
