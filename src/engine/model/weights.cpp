#include "engine/model/weights.hpp"

#include <cstring>
#include <string>

#include "fathom/core/error.hpp"
#include "fathom/ops/mla_absorb.hpp"

namespace fathom {
namespace {

class Loader {
 public:
  Loader(const Checkpoint& checkpoint, Precision precision, const Context& context)
      : file_(checkpoint), config_(checkpoint.config()), precision_(precision), context_(context) {}

  LayerWeights layer(std::int64_t index) {
    const std::string name = "model.layers." + std::to_string(index) + ".";
    LayerWeights w;
    w.input_norm = vector(name + "input_layernorm.weight", config_.hidden_size);
    w.attention = attention(name + "self_attn.");
    add_indexer(name + "self_attn.indexer.", w.attention);
    w.post_attention_norm = vector(name + "post_attention_layernorm.weight", config_.hidden_size);
    w.is_moe = config_.is_moe_layer(index);
    if (w.is_moe) {
      w.moe = moe(name + "mlp.");
    } else {
      w.mlp = mlp(name + "mlp.", config_.intermediate_size);
    }
    return w;
  }

  MtpWeights mtp() {
    const std::string name = "model.layers." + std::to_string(config_.num_hidden_layers) + ".";
    const std::int64_t hidden = config_.hidden_size;
    MtpWeights w;
    w.embedding = shared_copy(name + "embed_tokens.weight", embedding());
    w.enorm = vector(name + "enorm.weight", hidden);
    w.hnorm = vector(name + "hnorm.weight", hidden);
    w.eh_proj = file_.weight(name + "eh_proj.weight", hidden, 2 * hidden);
    w.norm = vector(name + "shared_head.norm.weight", hidden);
    w.head = {shared_copy(name + "shared_head.head.weight", head().values), {}};
    return w;
  }

  TensorView embedding() const { return plain("model.embed_tokens.weight"); }
  Weight head() const { return {plain("lm_head.weight"), {}}; }
  TensorView norm() const { return vector("model.norm.weight", config_.hidden_size); }
  std::vector<Buffer> take_derived() { return std::move(derived_); }

 private:
  TensorView vector(const std::string& name, std::int64_t size) const {
    return file_.tensor(name, {DType::bf16, DType::f32}, {size});
  }
  TensorView plain(const std::string& name) const {
    return file_.tensor(name, {DType::bf16, DType::f32}, {config_.vocab_size, config_.hidden_size});
  }

  /// The MTP layer's embedding and head are stored again although they equal the model's. Where they do, the
  /// model's are used: half the memory and half the cache misses.
  TensorView shared_copy(const std::string& name, const TensorView& original) const {
    if (!file_.has(name)) return original;
    const TensorView copy = plain(name);
    const bool same = copy.dtype == original.dtype &&
                      std::memcmp(copy.data, original.data,
                                  static_cast<std::size_t>(copy.count() * size_of(copy.dtype))) == 0;
    if (!same) return copy;
    file_.release_pages(copy);
    return original;
  }

  DsaAttentionWeights attention(const std::string& name) {
    const std::int64_t heads = config_.num_attention_heads;
    DsaAttentionWeights w;
    w.q_a = file_.weight(name + "q_a_proj.weight", config_.q_lora_rank, config_.hidden_size);
    w.q_a_norm = vector(name + "q_a_layernorm.weight", config_.q_lora_rank);
    w.q_b = file_.weight(name + "q_b_proj.weight", heads * config_.qk_head_dim(), config_.q_lora_rank);
    w.kv_a = file_.weight(name + "kv_a_proj_with_mqa.weight", config_.kv_lora_rank + config_.qk_rope_head_dim,
                          config_.hidden_size);
    w.kv_a_norm = vector(name + "kv_a_layernorm.weight", config_.kv_lora_rank);
    absorb(name + "kv_b_proj.weight", w);
    w.o = file_.weight(name + "o_proj.weight", config_.hidden_size, heads * config_.v_head_dim);
    return w;
  }

  /// The absorbed form of kv_b. FP8 stays FP8 where the scale's blocks end with the parts of a head: then
  /// only the transposed part is a copy. Otherwise both parts become bf16 or f32. The file's pages are read
  /// again only for what stays in it.
  void absorb(const std::string& name, DsaAttentionWeights& w) {
    const std::int64_t heads = config_.num_attention_heads;
    const std::int64_t nope = config_.qk_nope_head_dim;
    const std::int64_t value = config_.v_head_dim;
    const std::int64_t lora = config_.kv_lora_rank;
    const Weight kv_b = file_.weight(name, heads * (nope + value), lora);
    if (kv_b.values.dtype == DType::f8e4m3 && nope % 128 == 0 && value % 128 == 0) {
      w.w_uk = {derive(DType::f8e4m3, heads, lora, nope),
                derive(DType::f32, heads, (lora + 127) / 128, nope / 128)};
      mla_absorb(
          {.kv_b = kv_b.values, .kv_b_scale = kv_b.scale, .w_uk = w.w_uk.values, .w_uk_scale = w.w_uk.scale},
          context_);
      w.w_uv = {part_of_heads(kv_b.values, heads, nope, value),
                part_of_heads(kv_b.scale, heads, nope / 128, value / 128)};
    } else {
      const DType dtype = precision_ == Precision::fp8 ? DType::bf16 : DType::f32;
      w.w_uk.values = derive(dtype, heads, lora, nope);
      w.w_uv.values = derive(dtype, heads, value, lora);
      mla_absorb(
          {.kv_b = kv_b.values, .kv_b_scale = kv_b.scale, .w_uk = w.w_uk.values, .w_uv = w.w_uv.values},
          context_);
    }
    file_.release_pages(kv_b.values);
  }

  /// Rows [first, first + count) of every head of a matrix whose rows are heads of first + count.
  static TensorView part_of_heads(TensorView x, std::int64_t heads, std::int64_t first, std::int64_t count) {
    const std::int64_t row = x.step(0);
    x.data = x.as<std::byte>() + first * row * size_of(x.dtype);
    x.rank = 3;
    x.shape = {heads, count, x.size(1)};
    x.stride = {(first + count) * row, row, 1};
    return x;
  }

  TensorView derive(DType dtype, std::int64_t a, std::int64_t b, std::int64_t c) {
    return derived_.emplace_back(a * b * c * size_of(dtype)).view(dtype, {a, b, c});
  }

  void add_indexer(const std::string& name, DsaAttentionWeights& w) const {
    const std::int64_t heads = config_.index_n_heads;
    const std::int64_t dim = config_.index_head_dim;
    w.index_q = file_.weight(name + "wq_b.weight", heads * dim, config_.q_lora_rank);
    w.index_k = file_.weight(name + "wk.weight", dim, config_.hidden_size);
    w.index_k_norm = vector(name + "k_norm.weight", dim);
    w.index_k_norm_bias = vector(name + "k_norm.bias", dim);
    w.head_gate =
        file_.tensor(name + "weights_proj.weight", {DType::bf16, DType::f32}, {heads, config_.hidden_size});
  }

  MlpWeights mlp(const std::string& name, std::int64_t intermediate) const {
    MlpWeights w;
    w.gate = file_.weight(name + "gate_proj.weight", intermediate, config_.hidden_size);
    w.up = file_.weight(name + "up_proj.weight", intermediate, config_.hidden_size);
    w.gate_up = {side_by_side(w.gate.values, w.up.values), side_by_side(w.gate.scale, w.up.scale)};
    if (!one_matrix(w.gate_up, intermediate)) w.gate_up = {};
    w.down = file_.weight(name + "down_proj.weight", config_.hidden_size, intermediate);
    return w;
  }

  /// The rows of both as one view, if those of `second` follow those of `first` in memory; else nothing. The
  /// usual writer of safetensors sorts by dtype and name, which puts gate_proj and up_proj side by side.
  static TensorView side_by_side(const TensorView& first, const TensorView& second) {
    if (!first.given() || first.dtype != second.dtype) return {};
    const std::byte* end = first.as<std::byte>() + first.count() * size_of(first.dtype);
    if (second.as<std::byte>() != end) return {};
    return TensorView::contiguous(first.data, first.dtype, {2 * first.size(0), first.size(1)});
  }

  /// Whether the halves' blocks of scales are the blocks of both taken together. n: rows of a half.
  static bool one_matrix(const Weight& both, std::int64_t n) {
    if (!both.values.given()) return false;
    return both.values.dtype != DType::f8e4m3 || (both.scale.given() && n % 128 == 0);
  }

  MoeWeights moe(const std::string& name) const {
    const std::int64_t experts = config_.n_routed_experts;
    const std::int64_t width = config_.moe_intermediate_size;
    MoeWeights w;
    w.router = {file_.tensor(name + "gate.weight", {DType::bf16, DType::f32}, {experts, config_.hidden_size}),
                {}};
    const std::string bias = name + "gate.e_score_correction_bias";
    if (file_.has(bias)) w.correction_bias = file_.tensor(bias, {DType::f32}, {experts});
    for (std::int64_t e = 0; e < experts; ++e) {
      const std::string expert = name + "experts." + std::to_string(e) + ".";
      add_expert(w.gate, expert + "gate_proj.weight", width, config_.hidden_size);
      add_expert(w.up, expert + "up_proj.weight", width, config_.hidden_size);
      add_expert(w.down, expert + "down_proj.weight", config_.hidden_size, width);
    }
    for (std::size_t e = 0; e < w.gate.values.size(); ++e) {
      const bool scaled = !w.gate.scales.empty();
      const Weight both{side_by_side(w.gate.values[e], w.up.values[e]),
                        scaled ? side_by_side(w.gate.scales[e], w.up.scales[e]) : TensorView{}};
      if (!one_matrix(both, width)) {
        w.gate_up = {};
        break;
      }
      w.gate_up.values.push_back(both.values);
      if (scaled) w.gate_up.scales.push_back(both.scale);
    }
    if (config_.n_shared_experts > 0)
      w.shared = mlp(name + "shared_experts.", config_.n_shared_experts * width);
    return w;
  }

  void add_expert(ExpertWeights& w, const std::string& name, std::int64_t n, std::int64_t k) const {
    const Weight weight = file_.weight(name, n, k);
    if (!w.values.empty() && w.values[0].dtype != weight.values.dtype) {
      throw FileError(file_.directory().string() + ": tensor " + name + " must be " +
                      std::string(to_string(w.values[0].dtype)) + " as the first expert's, got " +
                      std::string(to_string(weight.values.dtype)));
    }
    w.values.push_back(weight.values);
    if (weight.scale.given()) w.scales.push_back(weight.scale);
  }

  const Checkpoint& file_;
  const ModelConfig& config_;
  Precision precision_;
  const Context& context_;
  std::vector<Buffer> derived_;
};

}  // namespace

ModelWeights load_weights(const Checkpoint& checkpoint, Precision precision,
                          const std::function<void(double)>& on_progress, const Context& context) {
  checkpoint.check();
  const ModelConfig& config = checkpoint.config();
  Loader loader(checkpoint, precision, context);
  ModelWeights w;
  w.embedding = loader.embedding();
  w.norm = loader.norm();
  w.head = loader.head();
  if (config.has_mtp()) w.mtp = loader.mtp();
  for (std::int64_t layer = 0; layer < config.layer_count(); ++layer) {
    if (on_progress) on_progress(static_cast<double>(layer) / static_cast<double>(config.layer_count()));
    w.layers.push_back(loader.layer(layer));
  }
  w.derived = loader.take_derived();
  if (on_progress) on_progress(1);
  return w;
}

}  // namespace fathom
