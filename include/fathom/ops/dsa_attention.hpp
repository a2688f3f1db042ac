// Sparse attention of one layer: from hidden states to output.
#pragma once
#include <algorithm>

#include "fathom/core/context.hpp"
#include "fathom/core/problem.hpp"
#include "fathom/core/tensor.hpp"
#include "fathom/ops/dsa_metadata.hpp"
#include "fathom/ops/weight.hpp"

namespace fathom {

struct DsaAttentionProblem {
  static constexpr std::string_view op = "dsa_attention";
  ForwardMode mode = ForwardMode::decode;
  std::int64_t batch = 64;
  std::int64_t rows = 64;
  std::int64_t max_seqlen_k = 32768;
  std::int64_t keys = 0;  // extend: of all requests together
  std::int64_t hidden = 7168;
  std::int64_t heads = 128;
  std::int64_t q_lora = 1536;
  std::int64_t lora = 512;
  std::int64_t nope = 128;
  std::int64_t rope = 64;
  std::int64_t value = 128;
  std::int64_t index_heads = 64;
  std::int64_t index_dim = 128;
  std::int64_t index_topk = 2048;
  std::int64_t score_bytes = 256 << 20;
  std::int64_t joined = 3;  // how many matrices are one product: q_a, kv_a (2); q_a, index_k, kv_a (3)
  DType x = DType::bf16;
  DType inner = DType::bf16;
  DType compute = DType::bf16;
  DType out = DType::bf16;
  DType weight = DType::f8e4m3;    // q_a's
  DType absorbed = DType::f8e4m3;  // w_uk's
  DType kv = DType::u8;
  DType index = DType::u8;
  std::int64_t page = 64;  // tokens of a page
  bool ue8m0 = false;
  bool packed = false;  // draft_extend: the metadata has a block table of every row
  bool accumulate = false;
  bool store_only = false;  // out is not given

  template <class V>
  void fields(V& visit) {
    visit("mode", mode);
    visit("batch", batch);
    visit("rows", rows);
    visit("max_seqlen_k", max_seqlen_k);
    visit("keys", keys);
    visit("hidden", hidden);
    visit("heads", heads);
    visit("q_lora", q_lora);
    visit("lora", lora);
    visit("nope", nope);
    visit("rope", rope);
    visit("value", value);
    visit("index_heads", index_heads);
    visit("index_dim", index_dim);
    visit("index_topk", index_topk);
    visit("score_bytes", score_bytes);
    visit("joined", joined);
    visit("x", x);
    visit("inner", inner);
    visit("compute", compute);
    visit("out", out);
    visit("weight", weight);
    visit("absorbed", absorbed);
    visit("kv", kv);
    visit("index", index);
    visit("page", page);
    visit("ue8m0", ue8m0);
    visit("packed", packed);
    visit("accumulate", accumulate);
    visit("store_only", store_only);
  }
  bool operator==(const DsaAttentionProblem&) const = default;

  /// Whether a row may see more than it attends to, so that the indexer has to score.
  bool sparse() const { return batch > 0 && max_seqlen_k > index_topk; }
  /// Entries of a row's list.
  std::int64_t top_k() const { return std::clamp<std::int64_t>(max_seqlen_k, 1, index_topk); }
};

struct DsaAttentionWeights {
  Weight q_a;                    // [q_lora, hidden]
  TensorView q_a_norm;           // [q_lora]
  Weight q_b;                    // [heads * (nope + rope), q_lora]
  Weight kv_a;                   // [lora + rope, hidden]
  TensorView kv_a_norm;          // [lora]
  Weight w_uk;                   // [heads, lora, nope], as mla_absorb makes it
  Weight w_uv;                   // [heads, value, lora], likewise
  Weight o;                      // [hidden, heads * value]
  Weight index_q;                // [index_heads * index_dim, q_lora]
  Weight index_k;                // [index_dim, hidden]
  TensorView index_k_norm;       // [index_dim]
  TensorView index_k_norm_bias;  // [index_dim]
  TensorView head_gate;          // [index_heads, hidden]
};

struct DsaAttentionArgs {
  TensorView x;  // [rows, hidden]
  const DsaAttentionWeights& weights;
  const DsaMetadata& metadata;
  ForwardMode mode = ForwardMode::decode;
  TensorView cos_sin;             // [max_positions, rope]
  TensorView kv_cache;            // [slots, width], written and read
  TensorView index_cache;         // as index_key_store's, written and read
  std::int64_t max_seqlen_k = 0;  // no row sees more positions
  std::int64_t keys = 0;          // extend: the requests have no more positions together
  std::int64_t index_topk = 2048;
  std::int64_t score_bytes = 256 << 20;  // scores take no more at a time, but for one row or request
  float softmax_scale = 0;
  float epsilon = 1e-6f;
  bool ue8m0 = false;           // scales of index queries and keys are powers of two
  DType inner = DType::bf16;    // of what is kept between the steps
  DType compute = DType::bf16;  // f32: no operand of a product is rounded
  TensorView indices{};         // [rows, top_k], optional: the slots that every row attends to
  TensorView selected{};        // [rows, top_k], optional, written: the indexer's choice
  TensorView scores{};          // [rows, keys or max_seqlen_k], optional, written: what it chose by
  TensorView out;               // [rows, hidden], written; left out: only the caches are
  bool accumulate = false;
  TensorView workspace;  // u8, at least dsa_attention_workspace() of the problem
};

/// Multi-head latent attention in its absorbed form over the entries that a lightning indexer chooses; x is
/// what the layer's first norm gives.
///
///   c_q = RMSNorm(W_qa x)                 q = W_qb c_q = [q_nope, RoPE(q_rope)]  of every head
///   [c_kv, k_rope] = W_kva x              entry at the row's slot: [RMSNorm(c_kv), RoPE(k_rope)]
///   k_I = RoPE(LayerNorm(W_ik x))         index key at the row's slot
///   q_I = RoPE(W_iq c_q)                  g = head_gate(x, scales of q_I)
///   chosen = the min(index_topk, length) best of the positions that the row sees,
///            by sum_h g_h relu(q_I,h . k_I)
///   o = softmax(softmax_scale * [W_uk q_nope, q_rope] . entries chosen) entries
///   out = W_o W_uv o, + out with accumulate
///
/// Index queries and keys are rotated half_split, and with a u8 index cache by hadamard and quantised; q_rope
/// and k_rope are rotated interleaved. Rows are the metadata's, whose block tables and, in mode extend,
/// windows must be there; in a mode other than extend scores come from the pages, next_n rows of a request in
/// one pass (of one row with a row_block_table). Rows that see at most index_topk positions attend to all of
/// them; if max_seqlen_k says so of all rows nothing is scored, and `indices` may bring the list (for example
/// of another layer). A row of padding gives zeros (nothing with accumulate) and is stored nowhere.
///
///   x                 f32 or bf16
///   weights           f8e4m3 with scales, or bf16, or f32, each; products with f8e4m3 quantise their input
///                     by the rule per_token_group, others read bf16, or f32 where the weight is. w_uk and
///                     w_uv have one dtype
///   kv_cache          as mla_cache_store
///   index_cache       as index_key_store: [pages, page * (index_dim + 4)] u8 or [pages, page, index_dim]
///                     f32. A page is 16, 32, 64 or 128 tokens, by which the metadata's slots and block
///                     tables must count
///   inner             f32 or bf16, of what products put out between the products; f32 where `compute` is
///                     f32, as is x then
///   selected, scores  only where max_seqlen_k exceeds index_topk; scores: f32, see mqa_logits
///   out               f32 or bf16; accumulate needs f32
///   workspace         contiguous, on 256 bytes (64 on the host); may hold anything, also NaN, and holds
///                     nothing of use afterwards
///
/// A chain of public ops, whose contracts fix the order of every sum: a row's bytes depend neither on the
/// other rows, nor on chunks, next_n, the pages or the threads (on CUDA: within mode extend, and within the
/// other modes). On a device nothing is allocated, copied or waited for, and lengths are read there, so that
/// a graph follows the metadata; max_seqlen_k and keys are then bounds of all replays. q_a and kv_a that lie
/// one behind the other, with their scales, are one product, as are q_a, index_k and kv_a. Throws
/// InvalidArgument if a shape, dtype or the workspace's size is wrong, or, on the host, slots are not those
/// of the pages, or as the ops do.
void dsa_attention(const DsaAttentionArgs& args, const Context& context);

/// The problem of these arguments, of which `workspace` may be missing.
DsaAttentionProblem dsa_attention_problem(const DsaAttentionArgs& args);
/// Bytes of the workspace of a problem.
std::int64_t dsa_attention_workspace(const DsaAttentionProblem& problem);

}  // namespace fathom
