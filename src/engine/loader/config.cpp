#include "fathom/engine/config.hpp"

#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "core/json.hpp"
#include "fathom/core/error.hpp"

namespace fathom {
namespace {

// Bounds far above every published model; they keep products inside 64 bits and plans small.
constexpr std::int64_t kMaxWidth = 1 << 17;
constexpr std::int64_t kMaxLayers = 512;
constexpr std::int64_t kMaxHeads = 1024;
constexpr std::int64_t kMaxHeadDim = 1024;
constexpr std::int64_t kMaxExperts = 1024;
constexpr std::int64_t kMaxVocabulary = 1 << 22;
constexpr std::int64_t kMaxPositions = 1 << 22;
constexpr double kMaxParameters = 4e12;
constexpr std::int64_t kMaxExpertsOfAllLayers = 1 << 16;  // each is six tensors to plan

constexpr JsonLimits kConfigLimits{.max_bytes = 1 << 20, .max_depth = 16};

// The config holds a value this library does not run.
void require(const JsonObject& json, std::string_view key, bool condition, std::string_view expected) {
  if (!condition) json.fail(key, expected);
}

void require_string(const JsonObject& json, std::string_view key, std::string_view expected) {
  if (json.has(key)) require(json, key, json.string(key) == expected, fmt::format("'{}'", expected));
}

std::optional<RopeScaling> read_rope_scaling(const JsonObject& root, std::int64_t max_positions) {
  if (!root.has("rope_scaling")) return std::nullopt;
  const JsonObject json = root.object("rope_scaling");
  const std::string_view type_key = json.has("rope_type") ? "rope_type" : "type";
  const std::string type = json.string(type_key);
  if (type == "default") return std::nullopt;
  require(json, type_key, type == "yarn", "'yarn' or 'default'");
  constexpr double kMost = 1e6;
  RopeScaling scaling;
  scaling.factor = json.number("factor", 1, kMost);
  scaling.original_max_position_embeddings =
      json.integer("original_max_position_embeddings", 1, kMaxPositions, max_positions);
  scaling.beta_fast = json.number("beta_fast", 1e-6, kMost, scaling.beta_fast);
  scaling.beta_slow = json.number("beta_slow", 1e-6, kMost, scaling.beta_slow);
  if (json.has("mscale")) scaling.mscale = json.number("mscale", 0, kMost);
  if (json.has("mscale_all_dim")) scaling.mscale_all_dim = json.number("mscale_all_dim", 0, kMost);
  if (json.has("attention_factor")) scaling.attention_factor = json.number("attention_factor", 0, kMost);
  scaling.truncate = json.boolean("truncate", scaling.truncate);
  return scaling;
}

std::optional<QuantizationConfig> read_quantization(const JsonObject& root) {
  if (!root.has("quantization_config")) return std::nullopt;
  const JsonObject json = root.object("quantization_config");
  require(json, "quant_method", json.string("quant_method") == "fp8", "'fp8'");
  require_string(json, "fmt", "e4m3");
  require_string(json, "activation_scheme", "dynamic");
  const auto block = json.integers("weight_block_size", 1, kMaxWidth);
  require(json, "weight_block_size", block == std::vector<std::int64_t>{128, 128}, "[128, 128]");
  require_string(json, "scale_fmt", "ue8m0");
  return QuantizationConfig{.ue8m0 = json.has("scale_fmt")};
}

// One id, a list of ids, or nothing.
std::vector<std::int64_t> read_ids(const JsonObject& json, std::string_view key, std::int64_t vocabulary) {
  const Json* value = json.find(key);
  if (value == nullptr) return {};
  if (value->is_array()) return json.integers(key, 0, vocabulary - 1);
  return {json.integer(key, 0, vocabulary - 1)};
}

void read_special_ids(const JsonObject& json, ModelConfig& config) {
  const auto bos = read_ids(json, "bos_token_id", config.vocab_size);
  require(json, "bos_token_id", bos.size() <= 1, "one token id");
  if (!bos.empty()) config.bos_token_id = bos.front();
  if (auto eos = read_ids(json, "eos_token_id", config.vocab_size); !eos.empty()) config.eos_token_ids = eos;
}

void read_experts(const JsonObject& json, ModelConfig& config) {
  config.n_routed_experts = json.integer("n_routed_experts", 0, kMaxExperts, 0);
  if (config.n_routed_experts == 0) return;
  config.first_k_dense_replace = json.integer("first_k_dense_replace", 0, kMaxLayers, 0);
  config.moe_layer_freq = json.integer("moe_layer_freq", 1, kMaxLayers, 1);
  config.n_shared_experts = json.integer("n_shared_experts", 0, kMaxExperts, 0);
  config.moe_intermediate_size = json.integer("moe_intermediate_size", 1, kMaxWidth);
  config.n_group = json.integer("n_group", 1, config.n_routed_experts, 1);
  require(json, "n_group", config.n_routed_experts % config.n_group == 0,
          fmt::format("a divisor of n_routed_experts ({})", config.n_routed_experts));
  config.topk_group = json.integer("topk_group", 1, config.n_group, config.n_group);
  const std::int64_t selectable = config.n_routed_experts / config.n_group * config.topk_group;
  config.num_experts_per_tok = json.integer("num_experts_per_tok", 1, selectable);
  config.norm_topk_prob = json.boolean("norm_topk_prob", true);
  config.routed_scaling_factor = json.number("routed_scaling_factor", 0, 1e6, 1.0);
  config.scoring_func = json.string("scoring_func", "sigmoid");
  require(json, "scoring_func", config.scoring_func == "sigmoid" || config.scoring_func == "softmax",
          "'sigmoid' or 'softmax'");
  require_string(json, "topk_method", "noaux_tc");
}

void read_attention(const JsonObject& json, ModelConfig& config) {
  config.num_attention_heads = json.integer("num_attention_heads", 1, kMaxHeads);
  config.q_lora_rank = json.integer("q_lora_rank", 1, kMaxWidth);
  config.kv_lora_rank = json.integer("kv_lora_rank", 128, kMaxWidth);
  require(json, "kv_lora_rank", config.kv_lora_rank % 128 == 0, "a multiple of 128");
  config.qk_nope_head_dim = json.integer("qk_nope_head_dim", 1, kMaxHeadDim);
  config.qk_rope_head_dim = json.integer("qk_rope_head_dim", 2, 128);
  require(json, "qk_rope_head_dim", config.qk_rope_head_dim % 2 == 0, "even");
  config.v_head_dim = json.integer("v_head_dim", 1, kMaxHeadDim);
  if (json.has("attention_bias")) require(json, "attention_bias", !json.boolean("attention_bias"), "false");
  config.index_n_heads = json.integer("index_n_heads", 1, 128);
  config.index_head_dim = json.integer("index_head_dim", 128, 128);  // the cache's page layout
  config.index_topk = json.integer("index_topk", 1, kMaxPositions);
  config.rope_theta = json.number("rope_theta", 1, 1e12);
  config.rope_scaling = read_rope_scaling(json, config.max_position_embeddings);
}

// Roughly, in double: only to refuse what cannot be meant.
double parameter_estimate(const ModelConfig& c) {
  const auto d = [](std::int64_t value) { return static_cast<double>(value); };
  const double attention =
      d(c.hidden_size) * d(c.q_lora_rank + c.kv_lora_rank + c.num_attention_heads * c.v_head_dim) +
      d(c.q_lora_rank) * d(c.num_attention_heads * c.qk_head_dim()) +
      d(c.kv_lora_rank) * d(c.num_attention_heads * (c.qk_nope_head_dim + c.v_head_dim));
  double total = 2 * d(c.vocab_size) * d(c.hidden_size);
  for (std::int64_t layer = 0; layer < c.layer_count(); ++layer) {
    const double width = c.is_moe_layer(layer)
                             ? d(c.n_routed_experts + c.n_shared_experts) * d(c.moe_intermediate_size)
                             : d(c.intermediate_size);
    total += attention + 3 * d(c.hidden_size) * width;
  }
  return total;
}

ModelConfig read_config(const JsonObject& json) {
  // First, so that another architecture is told apart before its keys are missed.
  require(json, "model_type", json.string("model_type") == "deepseek_v32", "'deepseek_v32'");
  ModelConfig config;
  config.vocab_size = json.integer("vocab_size", 1, kMaxVocabulary);
  config.hidden_size = json.integer("hidden_size", 1, kMaxWidth);
  config.num_hidden_layers = json.integer("num_hidden_layers", 1, kMaxLayers);
  config.num_nextn_predict_layers = json.integer("num_nextn_predict_layers", 0, 1, 0);
  config.max_position_embeddings = json.integer("max_position_embeddings", 1, kMaxPositions);
  config.rms_norm_eps = json.number("rms_norm_eps", 0, 1);
  require_string(json, "hidden_act", "silu");
  if (json.has("tie_word_embeddings")) {
    require(json, "tie_word_embeddings", !json.boolean("tie_word_embeddings"), "false");
  }
  read_attention(json, config);
  read_experts(json, config);
  bool any_dense = false;
  for (std::int64_t layer = 0; layer < config.layer_count(); ++layer)
    any_dense |= !config.is_moe_layer(layer);
  if (any_dense || json.has("intermediate_size")) {
    config.intermediate_size = json.integer("intermediate_size", 1, 1 << 20);
  }
  config.quantization_config = read_quantization(json);
  read_special_ids(json, config);
  std::int64_t experts = 0;
  for (std::int64_t layer = 0; layer < config.layer_count(); ++layer) {
    if (config.is_moe_layer(layer)) experts += config.n_routed_experts;
  }
  if (experts > kMaxExpertsOfAllLayers) {
    throw FileError(
        fmt::format("{}: asks for {} routed experts in all layers; the most this library takes is {}",
                    json.origin(), experts, kMaxExpertsOfAllLayers));
  }
  if (const double parameters = parameter_estimate(config); parameters > kMaxParameters) {
    throw FileError(fmt::format("{}: asks for {:.3g} parameters; the most this library takes is {:.3g}",
                                json.origin(), parameters, kMaxParameters));
  }
  return config;
}

}  // namespace

bool ModelConfig::is_moe_layer(std::int64_t layer) const {
  if (n_routed_experts == 0) return false;
  return layer >= num_hidden_layers || (layer >= first_k_dense_replace && layer % moe_layer_freq == 0);
}

ModelConfig ModelConfig::parse(std::string_view config_json, std::string_view origin) {
  const Json json = parse_json(config_json, origin, kConfigLimits);
  return read_config(JsonObject(json, std::string(origin)));
}

ModelConfig ModelConfig::load(const std::filesystem::path& dir) {
  const auto file = dir / "config.json";
  const Json json = read_json(file, kConfigLimits);
  ModelConfig config = read_config(JsonObject(json, file.string()));
  const auto generation_file = dir / "generation_config.json";
  std::error_code error;
  if (std::filesystem::exists(std::filesystem::symlink_status(generation_file, error))) {
    const Json generation = read_json(generation_file, kConfigLimits);
    read_special_ids(JsonObject(generation, generation_file.string()), config);
  }
  return config;
}

}  // namespace fathom
