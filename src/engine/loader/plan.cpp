#include "fathom/engine/plan.hpp"

#include <fmt/format.h>

#include <span>
#include <utility>

#include "fathom/engine/checkpoint.hpp"

namespace fathom {
namespace {

// Writes the names and shapes of one model down, in the order of the forward pass.
class Lister {
 public:
  explicit Lister(const ModelConfig& config) : c_(config) {}

  std::vector<ExpectedTensor> list() {
    plain("model.embed_tokens.weight", {c_.vocab_size, c_.hidden_size});
    for (layer_ = 0; layer_ < c_.layer_count(); ++layer_) {
      prefix_ = fmt::format("model.layers.{}.", layer_);
      if (layer_ >= c_.num_hidden_layers) mtp_inputs();
      decoder_layer();
      if (layer_ >= c_.num_hidden_layers) mtp_outputs();
    }
    layer_ = -1;
    prefix_.clear();
    plain("model.norm.weight", {c_.hidden_size});
    plain("lm_head.weight", {c_.vocab_size, c_.hidden_size});
    return std::move(tensors_);
  }

 private:
  void add(std::string_view name, TensorKind kind, std::initializer_list<std::int64_t> shape) {
    ExpectedTensor& tensor = tensors_.emplace_back();
    tensor.name.reserve(prefix_.size() + name.size());
    tensor.name.append(prefix_).append(name);
    tensor.kind = kind;
    tensor.layer = layer_;
    tensor.routed_expert = routed_expert_;
    for (const std::int64_t size : shape) tensor.shape[static_cast<std::size_t>(tensor.rank++)] = size;
  }
  void plain(std::string_view name, std::initializer_list<std::int64_t> shape) {
    add(name, TensorKind::plain, shape);
  }
  void matrix(std::string_view name, std::int64_t n, std::int64_t k) {
    const std::string weight = std::string(name) + ".weight";
    add(weight, TensorKind::matrix, {n, k});
    if (c_.quantization_config)
      add(weight + "_scale_inv", TensorKind::scale, {(n + 127) / 128, (k + 127) / 128});
  }
  void mlp(const std::string& name, std::int64_t width) {
    matrix(name + ".gate_proj", width, c_.hidden_size);
    matrix(name + ".up_proj", width, c_.hidden_size);
    matrix(name + ".down_proj", c_.hidden_size, width);
  }
  void attention() {
    const std::int64_t heads = c_.num_attention_heads;
    matrix("self_attn.q_a_proj", c_.q_lora_rank, c_.hidden_size);
    plain("self_attn.q_a_layernorm.weight", {c_.q_lora_rank});
    matrix("self_attn.q_b_proj", heads * c_.qk_head_dim(), c_.q_lora_rank);
    matrix("self_attn.kv_a_proj_with_mqa", c_.kv_lora_rank + c_.qk_rope_head_dim, c_.hidden_size);
    plain("self_attn.kv_a_layernorm.weight", {c_.kv_lora_rank});
    matrix("self_attn.kv_b_proj", heads * (c_.qk_nope_head_dim + c_.v_head_dim), c_.kv_lora_rank);
    matrix("self_attn.o_proj", c_.hidden_size, heads * c_.v_head_dim);
    matrix("self_attn.indexer.wq_b", c_.index_n_heads * c_.index_head_dim, c_.q_lora_rank);
    matrix("self_attn.indexer.wk", c_.index_head_dim, c_.hidden_size);
    plain("self_attn.indexer.k_norm.weight", {c_.index_head_dim});
    plain("self_attn.indexer.k_norm.bias", {c_.index_head_dim});
    plain("self_attn.indexer.weights_proj.weight", {c_.index_n_heads, c_.hidden_size});
  }
  void experts() {
    plain("mlp.gate.weight", {c_.n_routed_experts, c_.hidden_size});
    if (c_.scoring_func == "sigmoid") {
      add("mlp.gate.e_score_correction_bias", TensorKind::bias, {c_.n_routed_experts});
    }
    routed_expert_ = true;
    for (std::int64_t e = 0; e < c_.n_routed_experts; ++e) {
      mlp(fmt::format("mlp.experts.{}", e), c_.moe_intermediate_size);
    }
    routed_expert_ = false;
    if (c_.n_shared_experts > 0) mlp("mlp.shared_experts", c_.n_shared_experts * c_.moe_intermediate_size);
  }
  void decoder_layer() {
    plain("input_layernorm.weight", {c_.hidden_size});
    attention();
    plain("post_attention_layernorm.weight", {c_.hidden_size});
    if (c_.is_moe_layer(layer_)) {
      experts();
    } else {
      mlp("mlp", c_.intermediate_size);
    }
  }
  void mtp_inputs() {
    add("embed_tokens.weight", TensorKind::optional, {c_.vocab_size, c_.hidden_size});
    plain("enorm.weight", {c_.hidden_size});
    plain("hnorm.weight", {c_.hidden_size});
    plain("eh_proj.weight", {c_.hidden_size, 2 * c_.hidden_size});
  }
  void mtp_outputs() {
    plain("shared_head.norm.weight", {c_.hidden_size});
    add("shared_head.head.weight", TensorKind::optional, {c_.vocab_size, c_.hidden_size});
  }

  const ModelConfig& c_;
  std::string prefix_;
  std::int64_t layer_ = -1;
  bool routed_expert_ = false;
  std::vector<ExpectedTensor> tensors_;
};

std::string rope_text(const ModelConfig& c) {
  std::string text = fmt::format("theta {}", c.rope_theta);
  if (!c.rope_scaling) return text + ", no scaling";
  return text + fmt::format(", yarn: factor {} over {} positions", c.rope_scaling->factor,
                            c.rope_scaling->original_max_position_embeddings);
}

std::string layers_text(const ModelConfig& c) {
  std::int64_t moe = 0;
  for (std::int64_t layer = 0; layer < c.num_hidden_layers; ++layer) moe += c.is_moe_layer(layer);
  return fmt::format("{} ({} dense, {} MoE) + {} MTP", c.num_hidden_layers, c.num_hidden_layers - moe, moe,
                     c.num_nextn_predict_layers);
}

std::string experts_text(const ModelConfig& c) {
  if (c.n_routed_experts == 0) return "none";
  return fmt::format("{} routed, {} a token, from {} of {} groups; {} shared; {} scores{}, x {}",
                     c.n_routed_experts, c.num_experts_per_tok, c.topk_group, c.n_group, c.n_shared_experts,
                     c.scoring_func, c.norm_topk_prob ? ", weights normalised" : "", c.routed_scaling_factor);
}

std::vector<std::pair<std::string, std::string>> architecture_rows(const ModelConfig& c) {
  const std::string format = !c.quantization_config ? "bf16 or f32"
                             : c.quantization_config->ue8m0
                                 ? "f8e4m3, one scale per 128x128, powers of two (ue8m0)"
                                 : "f8e4m3, one f32 scale per 128x128";
  return {
      {"layers", layers_text(c)},
      {"sizes", fmt::format("hidden {}, dense MLP {}, expert {}", c.hidden_size, c.intermediate_size,
                            c.moe_intermediate_size)},
      {"attention (MLA)", fmt::format("{} heads, q_lora_rank {}, kv_lora_rank {}, nope {}, rope {}, value {}",
                                      c.num_attention_heads, c.q_lora_rank, c.kv_lora_rank,
                                      c.qk_nope_head_dim, c.qk_rope_head_dim, c.v_head_dim)},
      {"indexer", fmt::format("{} heads of {}, top-k {}", c.index_n_heads, c.index_head_dim, c.index_topk)},
      {"experts", experts_text(c)},
      {"vocabulary", std::to_string(c.vocab_size)},
      {"rope", rope_text(c)},
      {"positions", std::to_string(c.max_position_embeddings)},
      {"matrices", format}};
}

void count_parameters(ModelPlan& plan, const ModelConfig& c, std::span<const ExpectedTensor> expected) {
  std::int64_t routed = 0;  // in the main layers
  for (const ExpectedTensor& tensor : expected) {
    if (tensor.kind != TensorKind::matrix && tensor.kind != TensorKind::plain) continue;
    plan.parameters += tensor.count();
    if (tensor.layer >= c.num_hidden_layers) {
      plan.mtp_parameters += tensor.count();
    } else if (tensor.routed_expert) {
      routed += tensor.count();
    }
  }
  plan.active_parameters = plan.parameters - plan.mtp_parameters;
  if (routed > 0) plan.active_parameters -= routed - routed / c.n_routed_experts * c.num_experts_per_tok;
}

}  // namespace

bool ExpectedTensor::allows(DType dtype) const {
  if (kind == TensorKind::scale || kind == TensorKind::bias) return dtype == DType::f32;
  return dtype == DType::bf16 || dtype == DType::f32 ||
         (kind == TensorKind::matrix && dtype == DType::f8e4m3);
}

std::string_view ExpectedTensor::dtypes() const {
  if (kind == TensorKind::scale || kind == TensorKind::bias) return "f32";
  return kind == TensorKind::matrix ? "f8e4m3, bf16 or f32" : "bf16 or f32";
}

std::vector<ExpectedTensor> expected_tensors(const ModelConfig& config) { return Lister(config).list(); }

std::array<CacheBytes, 3> cache_bytes_per_token(const ModelConfig& c) {
  const std::int64_t lora = c.kv_lora_rank;
  const std::int64_t rope = c.qk_rope_head_dim;
  const std::int64_t layers = c.layer_count();
  const std::int64_t index_fp8 = layers * (c.index_head_dim + 4);
  const std::int64_t index_f32 = layers * c.index_head_dim * 4;
  return {CacheBytes{"fp8", layers * (lora + lora / 128 * 4 + 2 * rope), index_fp8, index_f32},
          CacheBytes{"bf16", layers * 2 * (lora + rope), index_fp8, index_f32},
          CacheBytes{"f32", layers * 4 * (lora + rope), index_fp8, index_f32}};
}

ModelPlan plan_model(const Checkpoint& checkpoint) {
  const ModelConfig& c = checkpoint.config();
  ModelPlan plan;
  plan.architecture = architecture_rows(c);
  const auto expected = expected_tensors(c);
  count_parameters(plan, c, expected);
  Comparison difference = checkpoint.compare(expected);
  plan.missing = std::move(difference.missing);
  plan.left_out = difference.left_out;
  plan.wrong = std::move(difference.wrong);
  plan.expected = std::ssize(expected);
  plan.present = checkpoint.tensor_count();
  plan.missing_files = checkpoint.missing_files();
  plan.weight_bytes = checkpoint.total_bytes();
  // As the engine absorbs kv_b: FP8 in whole blocks stays FP8 and only the keys' part is a copy.
  const bool codes = c.quantization_config && c.qk_nope_head_dim % 128 == 0 && c.v_head_dim % 128 == 0;
  const std::int64_t keys = c.layer_count() * c.num_attention_heads * c.qk_nope_head_dim * c.kv_lora_rank;
  const std::int64_t both = keys / c.qk_nope_head_dim * (c.qk_nope_head_dim + c.v_head_dim);
  plan.absorbed_bytes_fp8 = codes ? keys : both * size_of(DType::bf16);
  plan.absorbed_bytes_fp32 = codes ? keys : both * size_of(DType::f32);
  plan.cache = cache_bytes_per_token(c);
  return plan;
}

}  // namespace fathom
