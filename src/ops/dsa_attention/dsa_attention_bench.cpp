// The bench of dsa_attention: every request is max_seqlen_k long with its new tokens, and the caches hold
// random entries where no new token lies.
#include <algorithm>
#include <cmath>

#include "bench.hpp"
#include "fathom/ops/dsa_attention.hpp"
#include "fathom/ops/index_key_store.hpp"
#include "fathom/ops/quantization.hpp"
#include "fathom/ops/rope.hpp"
#include "ops/cache_bench.hpp"

namespace fathom {
namespace {

using Shared = std::shared_ptr<BenchBuffer>;

Shared integers(std::int64_t count, const std::function<std::int64_t(std::int64_t)>& value) {
  auto buffer = bench_buffer(count * 4);
  auto* to = reinterpret_cast<std::int32_t*>(buffer->data());
  for (std::int64_t i = 0; i < count; ++i) to[i] = static_cast<std::int32_t>(value(i));
  return buffer;
}

/// A matrix whose products with normal rows are about normal.
struct Matrix {
  Matrix(DType type, std::int64_t groups, std::int64_t n, std::int64_t k)
      : dtype(type),
        shape{groups, n, k},
        values(bench_normal(type, {groups, n, k},
                            type == DType::f8e4m3 ? 8 : 1 / std::sqrt(static_cast<double>(k)))),
        scale(bench_normal(DType::f32, {groups, scale_groups(n), scale_groups(k)},
                           0.125 / std::sqrt(static_cast<double>(k)))) {}
  Weight view() const {
    const auto [groups, n, k] = shape;
    Weight w{values->view(dtype, {groups, n, k}), {}};
    if (dtype == DType::f8e4m3) w.scale = scale->view(DType::f32, {groups, scale_groups(n), scale_groups(k)});
    return w;
  }
  /// Rows [begin, begin + rows) of the only group.
  Weight rows(std::int64_t begin, std::int64_t count) const {
    const auto [groups, n, k] = shape;
    Weight w{values->view(dtype, {n, k}).rows(begin, begin + count), {}};
    if (dtype == DType::f8e4m3) {
      w.scale = scale->view(DType::f32, {scale_groups(n), scale_groups(k)})
                    .rows(begin / 128, begin / 128 + scale_groups(count));
    }
    return w;
  }
  Weight all() const { return rows(0, shape[1]); }
  double bytes() const {
    return static_cast<double>(values->size() + (dtype == DType::f8e4m3 ? scale->size() : 0));
  }

  DType dtype;
  std::array<std::int64_t, 3> shape;
  Shared values, scale;
};

struct Layer {
  explicit Layer(const DsaAttentionProblem& problem)
      : p(problem),
        down(p.weight, 1, p.q_lora + p.index_dim + p.lora + p.rope, p.hidden),
        q_b(p.weight, 1, p.heads * (p.nope + p.rope), p.q_lora),
        index_q(p.weight, 1, p.index_heads * p.index_dim, p.q_lora),
        o(p.weight, 1, p.hidden, p.heads * p.value),
        w_uk(p.absorbed, p.heads, p.lora, p.nope),
        w_uv(p.absorbed, p.heads, p.value, p.lora),
        head_gate(bench_normal(DType::bf16, {p.index_heads, p.hidden}, 0.01)),
        norm(bench_normal(DType::bf16, {std::max({p.q_lora, p.lora, p.index_dim})})) {}
  DsaAttentionWeights weights() const {
    const auto vector = [this](std::int64_t width) { return norm->view(DType::bf16, {width}); };
    return {.q_a = down.rows(0, p.q_lora),
            .q_a_norm = vector(p.q_lora),
            .q_b = q_b.all(),
            .kv_a = down.rows(p.q_lora + p.index_dim, p.lora + p.rope),
            .kv_a_norm = vector(p.lora),
            .w_uk = w_uk.view(),
            .w_uv = w_uv.view(),
            .o = o.all(),
            .index_q = index_q.all(),
            .index_k = down.rows(p.q_lora, p.index_dim),
            .index_k_norm = vector(p.index_dim),
            .index_k_norm_bias = vector(p.index_dim),
            .head_gate = head_gate->view(DType::bf16, {p.index_heads, p.hidden})};
  }
  double bytes() const {
    return down.bytes() + q_b.bytes() + index_q.bytes() + o.bytes() + w_uk.bytes() + w_uv.bytes() +
           static_cast<double>(head_gate->size());
  }

  DsaAttentionProblem p;
  Matrix down, q_b, index_q, o, w_uk, w_uv;
  Shared head_gate, norm;
};

}  // namespace

BenchCase dsa_attention_bench(std::string_view text, const Context& context) {
  auto p = parse_problem<DsaAttentionProblem>(text);
  const bool extend = p.mode == ForwardMode::extend;
  const std::int64_t share = p.rows / std::max<std::int64_t>(p.batch, 1);
  bench_at_least(p.op, "page", p.page, 1);
  const std::int64_t pages = (p.max_seqlen_k + p.page - 1) / p.page;
  if (extend) p.keys = p.batch * p.max_seqlen_k;
  p.packed = false;
  p.joined = 3;
  const auto layer = std::make_shared<Layer>(p);
  const auto x = bench_normal(p.x, {p.rows, p.hidden});
  const auto out = bench_zeros(p.rows * p.hidden * size_of(p.out));
  const std::int64_t entry = p.kv == DType::u8 ? mla_cache_entry_bytes(p.lora, p.rope) : p.lora + p.rope;
  const auto kv = bench_mla_cache(p.batch * pages * p.page, 4099, p.kv, p.lora, p.rope, context);
  const std::int64_t page = p.page * (p.index == DType::u8 ? p.index_dim + 4 : p.index_dim);
  const auto index = p.index == DType::u8 ? bench_index_cache(p.batch * pages, p.page, p.index_dim)
                                          : bench_normal(DType::f32, {p.batch * pages, p.page, p.index_dim});
  const auto table = integers(p.batch * pages, [](std::int64_t i) { return i; });
  const auto prefix = integers(p.batch, [&](std::int64_t) { return p.max_seqlen_k - share; });
  const auto extend_lens = integers(p.batch, [&](std::int64_t) { return share; });
  const auto cos_sin = bench_buffer(p.max_seqlen_k * p.rope * 4);
  std::copy_n(make_rope_table({.dim = p.rope}, p.max_seqlen_k).data(), cos_sin->size(), cos_sin->data());
  const DsaMetadataProblem step{.mode = p.mode,
                                .batch = p.batch,
                                .rows = p.rows,
                                .max_pages = pages,
                                .page_tokens = p.page,
                                .index_topk = p.index_topk,
                                .packed = extend};
  const auto ints = bench_buffer(dsa_metadata_size(step) * 4);
  const auto workspace = bench_buffer(dsa_attention_workspace(p));
  // Of every row: the index keys it is scored by and the entries it attends to; requests share the former.
  const double scored = p.sparse() ? static_cast<double>(p.batch * p.max_seqlen_k) * 132 : 0;
  const double attended = static_cast<double>(p.rows * p.top_k() * entry * size_of(p.kv));
  return {.problem = problem_string(p),
          .bytes = layer->bytes() + scored + attended + static_cast<double>(x->size() + out->size()),
          .run = [=, &context](std::int64_t) {
            const DsaMetadata metadata = dsa_metadata_in(step, ints->view(DType::i32, {ints->size() / 4}));
            dsa_metadata({.mode = p.mode,
                          .prefix_lens = prefix->view(DType::i32, {p.batch}),
                          .extend_lens = extend ? extend_lens->view(DType::i32, {p.batch}) : TensorView{},
                          .page_table = table->view(DType::i32, {p.batch, pages}),
                          .index_topk = p.index_topk,
                          .page_tokens = p.page,
                          .out = metadata},
                         context);
            const DsaAttentionWeights weights = layer->weights();
            dsa_attention(
                {.x = x->view(p.x, {p.rows, p.hidden}),
                 .weights = weights,
                 .metadata = metadata,
                 .mode = p.mode,
                 .cos_sin = cos_sin->view(DType::f32, {p.max_seqlen_k, p.rope}),
                 .kv_cache = kv->view(p.kv, {p.batch * pages * p.page, entry}),
                 .index_cache = p.index == DType::u8
                                    ? index->view(DType::u8, {p.batch * pages, page})
                                    : index->view(DType::f32, {p.batch * pages, p.page, p.index_dim}),
                 .max_seqlen_k = p.max_seqlen_k,
                 .keys = p.keys,
                 .index_topk = p.index_topk,
                 .score_bytes = p.score_bytes,
                 .softmax_scale = 0.1f,
                 .ue8m0 = p.ue8m0,
                 .inner = p.inner,
                 .compute = p.compute,
                 .out = out->view(p.out, {p.rows, p.hidden}),
                 .accumulate = p.accumulate,
                 .workspace = workspace->view(DType::u8, {workspace->size()})},
                context);
          }};
}

}  // namespace fathom
