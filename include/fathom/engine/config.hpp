// ModelConfig: what config.json and generation_config.json say about a model, checked.
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fathom {

/// `rope_scaling` of type "yarn", as Hugging Face transformers reads it.
struct RopeScaling {
  double factor = 1;
  std::int64_t original_max_position_embeddings = 4096;
  double beta_fast = 32;
  double beta_slow = 1;
  std::optional<double> mscale;
  std::optional<double> mscale_all_dim;
  std::optional<double> attention_factor;
  bool truncate = true;
};

/// `quantization_config`: matrices are f8e4m3 with one scale per 128x128 block, `<name>_scale_inv`.
struct QuantizationConfig {
  bool ue8m0 = false;  ///< scale_fmt is "ue8m0": every scale is a power of two
};

/// The fields have the names of config.json; a layer numbered num_hidden_layers is the MTP layer.
struct ModelConfig {
  std::int64_t vocab_size = 0;
  std::int64_t hidden_size = 0;
  std::int64_t num_hidden_layers = 0;
  std::int64_t num_nextn_predict_layers = 0;  ///< MTP layers: 0 or 1
  std::int64_t max_position_embeddings = 0;

  std::int64_t num_attention_heads = 0;
  std::int64_t q_lora_rank = 0;
  std::int64_t kv_lora_rank = 0;
  std::int64_t qk_nope_head_dim = 0;
  std::int64_t qk_rope_head_dim = 0;
  std::int64_t v_head_dim = 0;

  std::int64_t index_n_heads = 0;
  std::int64_t index_head_dim = 0;
  std::int64_t index_topk = 0;

  std::int64_t intermediate_size = 0;      ///< of a dense layer's MLP
  std::int64_t first_k_dense_replace = 0;  ///< the first MoE layer
  std::int64_t moe_layer_freq = 1;         ///< from there on, every layer whose number this divides is MoE
  std::int64_t n_routed_experts = 0;       ///< 0: no MoE layers
  std::int64_t n_shared_experts = 0;  ///< the shared MLP is n_shared_experts * moe_intermediate_size wide
  std::int64_t moe_intermediate_size = 0;
  std::int64_t num_experts_per_tok = 0;
  std::int64_t n_group = 1;
  std::int64_t topk_group = 1;
  bool norm_topk_prob = true;
  double routed_scaling_factor = 1;
  std::string scoring_func = "sigmoid";  ///< or "softmax"

  double rms_norm_eps = 1e-6;
  double rope_theta = 10000;
  std::optional<RopeScaling> rope_scaling;
  std::optional<QuantizationConfig> quantization_config;

  std::optional<std::int64_t> bos_token_id;
  std::vector<std::int64_t> eos_token_ids;  ///< of generation_config.json if it names any

  /// Reads DIR/config.json and, if it is there, DIR/generation_config.json. Throws FileError naming the file,
  /// the key, what was expected and what came, also for a model this library does not run, and for sizes that
  /// ask for more weights than any such model has; nothing is allocated before.
  static ModelConfig load(const std::filesystem::path& dir);
  /// The same from text. `origin` stands in messages for the file.
  static ModelConfig parse(std::string_view config_json, std::string_view origin = "config.json");

  bool has_mtp() const { return num_nextn_predict_layers > 0; }
  /// Decoder layers, the MTP layer included.
  std::int64_t layer_count() const { return num_hidden_layers + num_nextn_predict_layers; }
  /// Whether layer `layer` routes to experts. The MTP layer does whenever the model has experts.
  bool is_moe_layer(std::int64_t layer) const;
  std::int64_t qk_head_dim() const { return qk_nope_head_dim + qk_rope_head_dim; }
};

}  // namespace fathom
