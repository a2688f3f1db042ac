// dsa_attention: checks, and the workspace.
#include "fathom/ops/dsa_attention.hpp"

#include <algorithm>
#include <cmath>

#include "fathom/ops/mla_cache_store.hpp"
#include "fathom/ops/quantization.hpp"
#include "ops/cache_layout.hpp"
#include "ops/dispatch.hpp"
#include "ops/dsa_attention/dsa_attention_impl.hpp"

namespace fathom {
namespace {

using Impl = Implementation<DsaAttentionProblem, DsaAttentionArgs>;

// Best first for each device. The reference takes every valid problem.
constexpr Impl kImplementations[] = {
    {"cuda:chain", dsa_attention_simt_can_run, dsa_attention_chain, /*fallback=*/false, DeviceKind::cuda},
    {"cpu:chain", always, dsa_attention_chain},
    {"ref:any", always, dsa_attention_ref, /*fallback=*/true},
};

constexpr std::initializer_list<DType> kNorm = {DType::f32, DType::bf16};
constexpr std::int64_t kAlignment = 256;  // of every part of the workspace

void check_matrix(const Expect& expect, std::string_view name, const Weight& w, std::int64_t n,
                  std::int64_t k) {
  expect.tensor(name, w.values, {DType::f8e4m3, DType::bf16, DType::f32}, {n, k});
  if (w.values.dtype == DType::f8e4m3) {
    expect.shape(name, w.scale, {scale_groups(n), scale_groups(k)});
  } else {
    expect.that(!w.scale.given(), name, "have scales only with f8e4m3", to_string(w.values.dtype));
  }
}

void check_absorbed(const Expect& expect, std::string_view name, const Weight& w, std::int64_t heads,
                    std::int64_t n, std::int64_t k) {
  expect.tensor(name, w.values, {DType::f8e4m3, DType::bf16, DType::f32}, {heads, n, k});
}

/// Whether the rows of `second` and its scales follow those of `first`, and blocks of scales end there.
bool one_behind_the_other(const Weight& first, const Weight& second) {
  const auto behind = [](const TensorView& a, const TensorView& b) {
    return a.dtype == b.dtype && a.is_contiguous() && b.is_contiguous() &&
           a.as<const std::byte>() + a.count() * size_of(a.dtype) == b.as<const std::byte>();
  };
  if (!behind(first.values, second.values)) return false;
  return first.values.dtype != DType::f8e4m3 ||
         (first.values.size(0) % 128 == 0 && behind(first.scale, second.scale));
}

std::int64_t joined(const DsaAttentionWeights& w) {
  if (one_behind_the_other(w.q_a, w.index_k) && one_behind_the_other(w.index_k, w.kv_a)) return 3;
  return one_behind_the_other(w.q_a, w.kv_a) ? 2 : 1;
}

void check_weights(const Expect& expect, const DsaAttentionProblem& p, const DsaAttentionWeights& w) {
  check_matrix(expect, "q_a", w.q_a, p.q_lora, p.hidden);
  check_matrix(expect, "kv_a", w.kv_a, p.lora + p.rope, p.hidden);
  check_matrix(expect, "index_k", w.index_k, p.index_dim, p.hidden);
  expect.tensor("kv_a_norm", w.kv_a_norm, kNorm, {p.lora});
  expect.tensor("index_k_norm", w.index_k_norm, kNorm, {p.index_dim});
  expect.tensor("index_k_norm_bias", w.index_k_norm_bias, kNorm, {p.index_dim});
  if (p.store_only) return;
  check_matrix(expect, "q_b", w.q_b, p.heads * (p.nope + p.rope), p.q_lora);
  check_matrix(expect, "o", w.o, p.hidden, p.heads * p.value);
  check_matrix(expect, "index_q", w.index_q, p.index_heads * p.index_dim, p.q_lora);
  check_absorbed(expect, "w_uk", w.w_uk, p.heads, p.lora, p.nope);
  check_absorbed(expect, "w_uv", w.w_uv, p.heads, p.value, p.lora);
  expect.tensor("q_a_norm", w.q_a_norm, kNorm, {p.q_lora});
  expect.tensor("head_gate", w.head_gate, kNorm, {p.index_heads, p.hidden});
}

void check_metadata(const Expect& expect, const DsaAttentionProblem& p, const DsaMetadata& m) {
  expect.tensor("slots", m.slots, {DType::i32}, {p.rows});
  expect.tensor("positions", m.positions, {DType::i32}, {p.rows});
  expect.tensor("requests", m.requests, {DType::i32}, {p.rows});
  expect.tensor("seqlens_expanded", m.seqlens_expanded, {DType::i32}, {p.rows});
  expect.contiguous("seqlens_expanded", m.seqlens_expanded);
  expect.tensor("topk_lens", m.topk_lens, {DType::i32}, {p.rows});
  expect.tensor("cache_seqlens", m.cache_seqlens, {DType::i32}, {p.batch});
  expect.tensor("block_table", m.block_table, {DType::i32}, {p.batch, -1});
  if (p.packed) expect.tensor("row_block_table", m.row_block_table, {DType::i32}, {p.rows, -1});
  if (p.mode == ForwardMode::extend && p.sparse()) {
    expect.tensor("ks", m.ks, {DType::i32}, {p.rows});
    expect.tensor("score_ends", m.score_ends, {DType::i32}, {p.rows});
    expect.tensor("cu_seqlens_k", m.cu_seqlens_k, {DType::i32}, {p.batch + 1});
    if (on_host(expect.device)) {
      const std::int64_t keys = integer_at(m.cu_seqlens_k, p.batch);
      expect.that(keys <= p.keys, "keys", "be at least the sum of the lengths, " + std::to_string(keys),
                  p.keys);
    }
  } else if (p.mode != ForwardMode::extend && !p.packed && p.batch > 0) {
    expect.that(p.rows % p.batch == 0, "slots",
                "have as many rows for each of " + std::to_string(p.batch) + " requests", p.rows);
  }
}

// Slots and block tables count by the pages of the index cache.
void check_pages(const Expect& expect, const DsaAttentionProblem& p, const DsaMetadata& m) {
  if (!on_host(expect.device)) return;
  for (std::int64_t r = 0; r < p.rows; ++r) {
    const std::int64_t slot = integer_at(m.slots, r);
    if (slot < 0) continue;
    const std::int64_t request = integer_at(m.requests, r), position = integer_at(m.positions, r);
    const bool there =
        request >= 0 && request < p.batch && position >= 0 && position / p.page < m.block_table.size(1);
    if (there && int_at(m.block_table, request, position / p.page) * p.page + position % p.page == slot)
      continue;
    expect.fail("slots", "be those of pages of " + std::to_string(p.page) + " tokens, as index_cache has",
                std::to_string(slot) + " at [" + std::to_string(r) + "]");
  }
}

void check_choices(const Expect& expect, const DsaAttentionProblem& p, const DsaAttentionArgs& args) {
  const auto only_sparse = [&](std::string_view name, const TensorView& view, DType dtype,
                               std::int64_t width) {
    if (!view.given()) return;
    expect.that(p.sparse() && !p.store_only, name, "be left out where nothing is scored", view);
    expect.tensor(name, view, {dtype}, {p.rows, width});
  };
  only_sparse("selected", args.selected, DType::i32, p.top_k());
  only_sparse("scores", args.scores, DType::f32, score_columns(p));
  if (!args.indices.given()) return;
  expect.that(!p.sparse(), "indices", "be left out where max_seqlen_k exceeds index_topk", args.max_seqlen_k);
  expect.tensor("indices", args.indices, {DType::i32}, {p.rows, -1});
}

DsaAttentionProblem validate(const DsaAttentionArgs& args, Device device) {
  const Expect expect{DsaAttentionProblem::op, device};
  const DsaAttentionWeights& w = args.weights;
  for (const auto& [name, view] : {std::pair("x", args.x),
                                   {"cos_sin", args.cos_sin},
                                   {"q_a", w.q_a.values},
                                   {"index_k", w.index_k.values},
                                   {"head_gate", w.head_gate}})
    expect.rank(name, view, 2);
  for (const auto& [name, view] : {std::pair("w_uk", w.w_uk.values), {"w_uv", w.w_uv.values}})
    expect.rank(name, view, 3);
  const DsaAttentionProblem problem = dsa_attention_problem(args);
  expect.at_least("heads", problem.heads, 1);
  expect.at_least("index_heads", problem.index_heads, 1);
  expect.at_least("index_topk", problem.index_topk, 1);
  expect.at_least("max_seqlen_k", problem.max_seqlen_k, 0);
  expect.at_least("keys", problem.keys, 0);
  expect.tensor("x", args.x, {DType::f32, DType::bf16}, {-1, -1});
  for (const auto& [name, dtype] : {std::pair("inner", args.inner), {"compute", args.compute}}) {
    if (dtype != DType::f32 && dtype != DType::bf16) expect.fail(name, "be f32 or bf16", to_string(dtype));
  }
  if (args.compute == DType::f32) {
    expect.dtype("x", args.x, {DType::f32});
    if (args.inner != DType::f32) expect.fail("inner", "be f32 where compute is", to_string(args.inner));
  }
  expect_index_cache(expect, args.index_cache, problem.index_dim, "index_cache");
  check_weights(expect, problem, w);
  check_metadata(expect, problem, args.metadata);
  check_pages(expect, problem, args.metadata);
  check_choices(expect, problem, args);
  if (problem.inner == DType::bf16 && problem.index == DType::f32)
    expect.fail("inner", "be f32 with an f32 index cache", to_string(problem.inner));
  if (!problem.store_only) {
    expect.tensor("out", args.out, {DType::f32, DType::bf16}, {problem.rows, problem.hidden});
    expect.that(!args.accumulate || args.out.dtype == DType::f32, "out", "be f32 with accumulate",
                to_string(args.out.dtype));
    expect.that(std::isfinite(args.softmax_scale), "softmax_scale", "be finite", args.softmax_scale);
  }
  const std::int64_t bytes = dsa_attention_workspace(problem);
  expect.tensor("workspace", args.workspace, {DType::u8}, {-1});
  expect.that(args.workspace.size(0) >= bytes, "workspace",
              "have at least " + std::to_string(bytes) + " bytes", args.workspace.size(0));
  const std::uintptr_t alignment = on_host(device) ? 64 : kAlignment;
  expect.that(reinterpret_cast<std::uintptr_t>(args.workspace.data) % alignment == 0, "workspace",
              "begin on 256 bytes (64 on the host)", "another address");
  return problem;
}

}  // namespace

DsaAttentionParts::DsaAttentionParts(const DsaAttentionProblem& p) {
  bytes = 0;
  const auto take = [this](std::int64_t count, DType dtype, bool wanted = true) {
    const std::int64_t begin = bytes;
    if (wanted) bytes += (count * size_of(dtype) + kAlignment - 1) / kAlignment * kAlignment;
    return begin;
  };
  const bool rounded = p.compute == DType::bf16;  // then products read f8e4m3 or bf16
  const bool all = !p.store_only;
  const bool scores_wanted = all && p.sparse();
  columns = p.q_lora + p.lora + p.rope + p.index_dim;
  kv_column = p.q_lora + (p.joined == 3 ? p.index_dim : 0);
  index_column = p.q_lora + (p.joined == 3 ? 0 : p.lora + p.rope);
  x = take(p.rows * p.hidden, DType::f8e4m3, rounded);
  x_scale = take(p.rows * scale_groups(p.hidden), DType::f32, rounded);
  x_bf16 = take(p.rows * p.hidden, DType::bf16, rounded && p.x == DType::f32);
  down = take(p.rows * columns, p.inner);
  q_latent = take(p.rows * p.q_lora, DType::f8e4m3, rounded && all);
  q_latent_scale = take(p.rows * scale_groups(p.q_lora), DType::f32, rounded && all);
  q_latent_bf16 = take(p.rows * p.q_lora, DType::bf16, rounded && all && p.inner == DType::f32);
  q = take(p.rows * p.heads * (p.nope + p.rope), p.inner, all);
  indices = take(p.rows * p.top_k(), DType::i32, all);
  const std::int64_t common = bytes;  // what follows is of the indexer, then of attention

  const bool gathers = scores_wanted && p.mode == ForwardMode::extend;
  const bool f8 = p.index == DType::u8;
  const std::int64_t most = p.rows > 0 ? p.rows : 1;
  score_pitch = (score_columns(p) + 63) / 64 * 64;
  // Paged scores are those of whole requests.
  const std::int64_t unit = p.mode == ForwardMode::extend || p.packed || p.batch == 0
                                ? 1
                                : std::max<std::int64_t>(p.rows / p.batch, 1);
  const std::int64_t fit = p.score_bytes / 4 / std::max<std::int64_t>(score_pitch, 1);
  score_rows = std::clamp(fit / unit * unit, unit, std::max(most, unit));
  index_q = take(p.rows * p.index_heads * p.index_dim, p.inner, scores_wanted);
  index_q_f8 = take(p.rows * p.index_heads * p.index_dim, DType::f8e4m3, scores_wanted && f8);
  index_q_scale = take(p.rows * p.index_heads, DType::f32, scores_wanted && f8);
  gate = take(p.rows * p.index_heads, DType::f32, scores_wanted);
  keys = take(p.keys * p.index_dim, f8 ? DType::f8e4m3 : DType::f32, gathers);
  key_scales = take(p.keys, DType::f32, gathers && f8);
  scores = take(score_rows * score_pitch, DType::f32, scores_wanted);
  const std::int64_t indexer = bytes;

  bytes = common;
  q_nope = take(p.rows * p.heads * p.nope, DType::bf16, all && rounded && p.inner == DType::f32);
  query = take(p.rows * p.heads * (p.lora + p.rope), p.kv == DType::f32 ? DType::f32 : p.compute, all);
  attended = take(p.rows * p.heads * p.lora, p.compute, all);
  values = take(p.rows * p.heads * p.value, p.inner, all);
  values_f8 = take(p.rows * p.heads * p.value, DType::f8e4m3, all && rounded);
  values_scale = take(p.rows * scale_groups(p.heads * p.value), DType::f32, all && rounded);
  values_bf16 = take(p.rows * p.heads * p.value, DType::bf16, all && rounded && p.inner == DType::f32);
  bytes = std::max(bytes, indexer);
}

DsaAttentionProblem dsa_attention_problem(const DsaAttentionArgs& args) {
  const DsaAttentionWeights& w = args.weights;
  return {.mode = args.mode,
          .batch = args.metadata.cache_seqlens.size(0),
          .rows = args.x.size(0),
          .max_seqlen_k = args.max_seqlen_k,
          .keys = args.mode == ForwardMode::extend ? args.keys : 0,
          .hidden = args.x.size(1),
          .heads = w.w_uk.values.size(0),
          .q_lora = w.q_a.values.size(0),
          .lora = w.w_uk.values.size(1),
          .nope = w.w_uk.values.size(2),
          .rope = args.cos_sin.size(1),
          .value = w.w_uv.values.size(1),
          .index_heads = w.head_gate.size(0),
          .index_dim = w.index_k.values.size(0),
          .index_topk = args.index_topk,
          .score_bytes = args.score_bytes,
          .joined = joined(w),
          .x = args.x.dtype,
          .inner = args.inner,
          .compute = args.compute,
          .out = args.out.given() ? args.out.dtype : DType::f32,
          .weight = w.q_a.values.dtype,
          .absorbed = w.w_uk.values.dtype,
          .kv = args.kv_cache.dtype,
          .index = args.index_cache.dtype,
          .page = index_cache_page(args.index_cache, w.index_k.values.size(0)),
          .ue8m0 = args.ue8m0,
          .packed = args.metadata.row_block_table.given(),
          .accumulate = args.accumulate,
          .store_only = !args.out.given()};
}

std::int64_t dsa_attention_workspace(const DsaAttentionProblem& problem) {
  return DsaAttentionParts(problem).bytes;
}

extern const OpInfo dsa_attention_info;
const OpInfo dsa_attention_info = make_op_info("a layer's sparse attention, from hidden states to output",
                                               DsaAttentionProblem{}, kImplementations);

void dsa_attention(const DsaAttentionArgs& args, const Context& context) {
  dispatch(kImplementations, validate, args, context);
}

}  // namespace fathom
