// A small random layer with caches and sequences, for the tests of dsa_attention. Tensors lie on the
// host; weights() shows copies of them elsewhere.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "fathom/ops/dsa_attention.hpp"
#include "fathom/ops/index_key_store.hpp"
#include "fathom/ops/mla_cache_store.hpp"
#include "fathom/ops/quantization.hpp"
#include "fathom/ops/rope.hpp"
#include "ops/op_test.hpp"

namespace fathom {

/// New tokens of one sequence in a step; prefix -1: a request of padding.
struct DsaShareOfTest {
  std::int64_t sequence = 0;
  std::int64_t prefix = 0;
  std::int64_t extend = 1;
};

/// Formats of a layer; sizes are small: 4 heads of 64 + 32, lora 128, 6 index heads, index_topk 24.
inline DsaAttentionProblem small_layer() {
  return {.hidden = 192,
          .heads = 4,
          .q_lora = 128,
          .lora = 128,
          .nope = 64,
          .rope = 32,
          .value = 48,
          .index_heads = 6,
          .index_dim = 128,
          .index_topk = 24,
          .joined = 1};
}

class DsaLayer {
 public:
  static constexpr std::int64_t kSequences = 3;

  /// Sequences of up to `tokens_each` tokens, of which the caches hold random entries for the first `known`.
  DsaLayer(const DsaAttentionProblem& formats, std::int64_t seed, std::int64_t tokens_each = 192,
           std::int64_t known = 0)
      : p(formats),
        random(seed),
        tokens(tokens_each),
        pages_each((tokens + p.page - 1) / p.page),
        pages(kSequences * pages_each + 1),
        x(random.normal(p.x, {kSequences * tokens, p.hidden})),
        // q_a, index_k and kv_a one behind the other
        down(matrix(p.q_lora + p.index_dim + p.lora + p.rope, p.hidden)),
        down_scale(scale(p.q_lora + p.index_dim + p.lora + p.rope, p.hidden)),
        q_b(matrix(p.heads * (p.nope + p.rope), p.q_lora)),
        q_b_scale(scale(p.heads * (p.nope + p.rope), p.q_lora)),
        o(matrix(p.hidden, p.heads * p.value)),
        o_scale(scale(p.hidden, p.heads * p.value)),
        index_q(matrix(p.index_heads * p.index_dim, p.q_lora)),
        index_q_scale(scale(p.index_heads * p.index_dim, p.q_lora)),
        w_uk(absorbed(p.lora, p.nope)),
        w_uk_scale(absorbed_scale(p.lora, p.nope)),
        w_uv(absorbed(p.value, p.lora)),
        w_uv_scale(absorbed_scale(p.value, p.lora)),
        head_gate(random.normal(p.compute == DType::f32 ? DType::f32 : DType::bf16, {p.index_heads, p.hidden},
                                0.1)),
        norms(random.uniform(DType::bf16, {4, std::max({p.q_lora, p.lora, p.index_dim})}, 0.5, 1.5)),
        cos_sin(DType::f32, {tokens, p.rope}),
        page_table(DType::i32, {kSequences, pages_each}),
        known_slots(DType::i32, {kSequences * known}),
        known_latents(random.normal(DType::f32, {kSequences * known, p.lora + p.rope})),
        known_keys(random.normal(DType::f32, {kSequences * known, p.index_dim})) {
    std::vector<std::int32_t> order(static_cast<std::size_t>(pages));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random.engine());
    std::copy_n(order.begin(), page_table.count(), page_table.as<std::int32_t>());
    const Buffer table = make_rope_table({.dim = p.rope}, tokens);
    std::memcpy(cos_sin.as<float>(), table.data(), static_cast<std::size_t>(cos_sin.count()) * 4);
    for (std::int64_t i = 0; i < known_slots.count(); ++i) {
      const double page = page_table[i / known * pages_each + i % known / p.page];
      known_slots.set(i, static_cast<double>(p.page) * page + static_cast<double>(i % known % p.page));
    }
  }

  /// With all matrices where they are, or as `place` says.
  template <class Place>
  DsaAttentionWeights weights(const Place& place) const {
    const auto part = [&](std::int64_t begin, std::int64_t rows) {
      Weight w{place(down).rows(begin, begin + rows), {}};
      if (p.weight == DType::f8e4m3)
        w.scale = place(down_scale).rows(begin / 128, begin / 128 + scale_groups(rows));
      return w;
    };
    const auto whole = [&](const Tensor& values, const Tensor& scales) {
      Weight w{place(values), {}};
      if (values.view().dtype == DType::f8e4m3) w.scale = place(scales);
      return w;
    };
    const auto norm = [&](std::int64_t row, std::int64_t width) {
      TensorView view = place(norms).rows(row, row + 1);
      return TensorView::contiguous(view.data, view.dtype, {width}, view.device);
    };
    return {.q_a = part(0, p.q_lora),
            .q_a_norm = norm(0, p.q_lora),
            .q_b = whole(q_b, q_b_scale),
            .kv_a = part(p.q_lora + p.index_dim, p.lora + p.rope),
            .kv_a_norm = norm(1, p.lora),
            .w_uk = whole(w_uk, w_uk_scale),
            .w_uv = whole(w_uv, w_uv_scale),
            .o = whole(o, o_scale),
            .index_q = whole(index_q, index_q_scale),
            .index_k = part(p.q_lora, p.index_dim),
            .index_k_norm = norm(2, p.index_dim),
            .index_k_norm_bias = norm(3, p.index_dim),
            .head_gate = place(head_gate)};
  }
  Tensor kv_cache() const {
    Tensor cache =
        filled(p.kv == DType::u8 ? Tensor(DType::u8, {pages * p.page, mla_cache_entry_bytes(p.lora, p.rope)})
                                 : Tensor(p.kv, {pages * p.page, p.lora + p.rope}));
    if (known_slots.count() == 0) return cache;
    const TensorView& all = known_latents.view();
    const auto part = [&](std::int64_t begin, std::int64_t width) {
      TensorView view = all;
      view.data = all.as<float>() + begin;
      view.shape[1] = width;
      return view;
    };
    mla_cache_store({part(0, p.lora), part(p.lora, p.rope), known_slots, cache}, test_context());
    return cache;
  }
  Tensor index_cache() const {
    Tensor cache = filled(p.index == DType::u8 ? Tensor(DType::u8, {pages, p.page * (p.index_dim + 4)})
                                               : Tensor(DType::f32, {pages, p.page, p.index_dim}));
    if (known_slots.count() > 0) index_key_store({known_keys, known_slots, cache, p.ue8m0}, test_context());
    return cache;
  }

  DsaAttentionProblem p;
  Random random;
  std::int64_t tokens, pages_each, pages;
  Tensor x, down, down_scale, q_b, q_b_scale, o, o_scale, index_q, index_q_scale;
  Tensor w_uk, w_uk_scale, w_uv, w_uv_scale, head_gate, norms, cos_sin, page_table;
  Tensor known_slots, known_latents, known_keys;

 private:
  // Nobody may read what nobody wrote: NaN in every format.
  static Tensor filled(Tensor cache) {
    std::memset(cache.view().data, 0xff,
                static_cast<std::size_t>(cache.count() * size_of(cache.view().dtype)));
    return cache;
  }
  Tensor matrix(std::int64_t n, std::int64_t k) {
    return random.normal(p.weight, {n, k},
                         p.weight == DType::f8e4m3 ? 4 : 1 / std::sqrt(static_cast<double>(k)));
  }
  Tensor scale(std::int64_t n, std::int64_t k) {
    const double size = 0.25 / std::sqrt(static_cast<double>(k));
    return random.uniform(DType::f32, {scale_groups(n), scale_groups(k)}, 0.7 * size, 1.3 * size);
  }
  Tensor absorbed(std::int64_t n, std::int64_t k) {
    return random.normal(p.absorbed, {p.heads, n, k},
                         p.absorbed == DType::f8e4m3 ? 4 : 1 / std::sqrt(static_cast<double>(k)));
  }
  Tensor absorbed_scale(std::int64_t n, std::int64_t k) {
    const double size = 0.25 / std::sqrt(static_cast<double>(k));
    return random.uniform(DType::f32, {p.heads, scale_groups(n), scale_groups(k)}, 0.7 * size, 1.3 * size);
  }
};

/// What a step is asked for besides the shares.
struct DsaStepOptions {
  bool packed = false;            // draft_extend: extend_lens are given
  std::int64_t padding_rows = 0;  // behind the last, packed only
  std::int64_t score_bytes = 256 << 20;
  std::int64_t max_seqlen_k = 0;  // 0: the longest
  bool store_only = false;
};

/// The input rows of the shares, one behind the other; padding gets the first row.
inline std::vector<std::int64_t> dsa_rows(const DsaLayer& layer, const std::vector<DsaShareOfTest>& shares,
                                          bool packed, std::int64_t padding_rows) {
  std::vector<std::int64_t> rows;
  for (const DsaShareOfTest& share : shares) {
    if (share.prefix < 0 && packed) continue;
    for (std::int64_t i = 0; i < share.extend; ++i)
      rows.push_back(share.prefix < 0 ? 0 : share.sequence * layer.tokens + share.prefix + i);
  }
  rows.resize(rows.size() + static_cast<std::size_t>(padding_rows), 0);
  return rows;
}

/// The tensors of a step, on the host.
struct DsaInput {
  DsaInput(const DsaLayer& layer, ForwardMode mode, const std::vector<DsaShareOfTest>& shares,
           const DsaStepOptions& with = {})
      : DsaInput(layer, mode, shares, with,
                 dsa_rows(layer, shares, mode == ForwardMode::extend || with.packed, with.padding_rows)) {}

  /// The metadata, in one buffer.
  Tensor ints(const DsaLayer& layer) const {
    Tensor buffer = poisoned(DType::i32, {dsa_metadata_size(metadata)});
    dsa_metadata({.mode = metadata.mode,
                  .prefix_lens = prefix,
                  .extend_lens = metadata.packed ? extend.view() : TensorView{},
                  .page_table = layer.page_table,
                  .request_ids = ids,
                  .index_topk = metadata.index_topk,
                  .page_tokens = metadata.page_tokens,
                  .out = dsa_metadata_in(metadata, buffer)},
                 test_context());
    return buffer;
  }
  /// All but what is written.
  template <class Place>
  DsaAttentionArgs args(const DsaLayer& layer, const DsaAttentionWeights& weights, const DsaMetadata& views,
                        const Place& place) const {
    const DsaAttentionProblem& p = layer.p;
    return {.x = place(x),
            .weights = weights,
            .metadata = views,
            .mode = metadata.mode,
            .cos_sin = place(layer.cos_sin),
            .max_seqlen_k = std::max(options.max_seqlen_k, longest),
            .keys = keys,
            .index_topk = p.index_topk,
            .score_bytes = options.score_bytes,
            .softmax_scale = 0.1f,
            .ue8m0 = p.ue8m0,
            .inner = p.inner,
            .compute = p.compute,
            .accumulate = p.accumulate};
  }

  DsaStepOptions options;
  DsaMetadataProblem metadata;
  Tensor x, prefix, extend, ids;
  std::int64_t longest = 0, keys = 0;

 private:
  DsaInput(const DsaLayer& layer, ForwardMode mode, const std::vector<DsaShareOfTest>& shares,
           const DsaStepOptions& of, const std::vector<std::int64_t>& from)
      : options(of),
        metadata{.mode = mode,
                 .batch = std::ssize(shares),
                 .rows = std::ssize(from),
                 .max_pages = layer.pages_each,
                 .page_tokens = layer.p.page,
                 .index_topk = layer.p.index_topk,
                 .workers = mode == ForwardMode::extend || shares.empty() ? 0 : 2,
                 .packed = mode == ForwardMode::extend || options.packed},
        x(layer.p.x, {metadata.rows, layer.p.hidden}),
        prefix(DType::i32, {metadata.batch}),
        extend(DType::i32, {metadata.batch}),
        ids(DType::i32, {metadata.batch}) {
    for (std::int64_t r = 0; r < metadata.rows; ++r) {
      for (std::int64_t i = 0; i < layer.p.hidden; ++i)
        x.set(r * layer.p.hidden + i, layer.x[from[static_cast<std::size_t>(r)] * layer.p.hidden + i]);
    }
    for (std::int64_t b = 0; b < metadata.batch; ++b) {
      const DsaShareOfTest& share = shares[static_cast<std::size_t>(b)];
      prefix.set(b, static_cast<double>(share.prefix));
      extend.set(b, static_cast<double>(share.extend));
      ids.set(b, static_cast<double>(share.sequence));
      if (share.prefix < 0) continue;
      longest = std::max(longest, share.prefix + share.extend);
      keys += share.prefix + share.extend;
    }
  }
};

/// A layer and its caches on the host.
class DsaRun {
 public:
  DsaRun(const DsaLayer& layer, const Context& context)
      : kv(layer.kv_cache()), index(layer.index_cache()), layer_(layer), context_(context) {}

  /// The output [rows, hidden] of a step.
  Tensor step(ForwardMode mode, const std::vector<DsaShareOfTest>& shares,
              const DsaStepOptions& options = {}) {
    const DsaInput input(layer_, mode, shares, options);
    const Tensor ints = input.ints(layer_);
    const DsaMetadata metadata = dsa_metadata_in(input.metadata, ints);
    const auto here = [](const Tensor& t) { return t.view(); };
    const DsaAttentionWeights weights = layer_.weights(here);
    DsaAttentionArgs args = input.args(layer_, weights, metadata, here);
    args.kv_cache = kv;
    args.index_cache = index;
    Tensor out = poisoned(layer_.p.out, {input.metadata.rows, layer_.p.hidden});
    if (layer_.p.accumulate) std::fill_n(out.as<float>(), out.count(), 1.0f);
    if (!options.store_only) args.out = out;
    const Tensor workspace(DType::u8, {dsa_attention_workspace(dsa_attention_problem(args))});
    std::memset(workspace.view().data, 0xff, static_cast<std::size_t>(workspace.count()));
    args.workspace = workspace;
    dsa_attention(args, context_);
    return out;
  }

  Tensor kv, index;

 private:
  const DsaLayer& layer_;
  const Context& context_;
};

}  // namespace fathom
