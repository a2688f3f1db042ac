#include "engine/checkpoint_writer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>

#include "engine/loader/safetensors_writer.hpp"
#include "fathom/core/error.hpp"

namespace fathom {
namespace {

using Json = nlohmann::ordered_json;
using safetensors::Declared;

// A tensor's dtype in the file. Norms and the like are bf16, as in the official files.
DType stored_dtype(const ExpectedTensor& tensor, const ModelConfig& config, const WriteOptions& options) {
  if (tensor.kind == TensorKind::scale || tensor.kind == TensorKind::bias) return DType::f32;
  if (tensor.kind != TensorKind::matrix) return options.plain;
  return config.quantization_config ? DType::f8e4m3 : DType::bf16;
}

Declared declare(const ExpectedTensor& tensor, const ModelConfig& config, const WriteOptions& options) {
  return {tensor.name,
          stored_dtype(tensor, config, options),
          {tensor.shape.begin(), tensor.shape.begin() + tensor.rank}};
}

// Counter-based, so that a tensor's content depends on the seed and its name alone.
class Bits {
 public:
  Bits(std::int64_t seed, std::string_view name) : state_(static_cast<std::uint64_t>(seed)) {
    for (const char c : name) state_ = (state_ ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  }
  std::uint64_t operator()() {
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }

 private:
  std::uint64_t state_;
};

// 65536 samples of a normal distribution: a table is far faster than sampling 2 GB of weights.
const std::vector<float>& normal_samples() {
  static const std::vector<float> samples = [] {
    std::mt19937_64 engine(20251);
    std::normal_distribution<float> normal;
    std::vector<float> values(65536);
    for (float& value : values) value = normal(engine);
    return values;
  }();
  return samples;
}

template <class T, class Convert>
void fill(std::span<std::byte> out, Bits& bits, Convert convert) {
  std::vector<T> table(65536);
  std::transform(normal_samples().begin(), normal_samples().end(), table.begin(), convert);
  auto* to = reinterpret_cast<T*>(out.data());
  const std::size_t count = out.size() / sizeof(T);
  std::uint64_t word = 0;
  for (std::size_t i = 0; i < count; ++i) {
    word = i % 4 == 0 ? bits() : word >> 16;
    to[i] = table[word & 0xffff];
  }
}

constexpr float kCodeDeviation = 100;  // of f8e4m3 values, so that few reach 448

struct Distribution {
  float mean = 0;
  float deviation = 1;
};

Distribution distribution(const ExpectedTensor& tensor) {
  const std::string& name = tensor.name;
  if (tensor.kind == TensorKind::bias) return {0, 0.02f};
  if (name.ends_with("k_norm.bias")) return {0, 0.1f};
  if (tensor.rank == 1) return {1, 0.1f};
  if (name.find("embed_tokens") != name.npos) return {0, 1};
  const float gain = name.ends_with("head.weight") ? 3 : 1;  // sharper than chance: greedy text has few ties
  return {0, gain / std::sqrt(static_cast<float>(tensor.shape[1]))};
}

// `columns` is the k of the matrix that a scale belongs to.
void fill_tensor(std::span<std::byte> out, const ExpectedTensor& tensor, DType dtype,
                 const ModelConfig& config, std::int64_t columns, Bits bits) {
  const Distribution d = distribution(tensor);
  if (tensor.kind == TensorKind::scale) {
    const float unit = 1 / (std::sqrt(static_cast<float>(columns)) * kCodeDeviation);
    const bool ue8m0 = config.quantization_config->ue8m0;
    fill<float>(out, bits, [&](float x) {
      const float scale = unit * std::exp2(0.3f * x);
      return ue8m0 ? std::exp2(std::round(std::log2(scale))) : scale;
    });
  } else if (dtype == DType::f8e4m3) {
    fill<std::uint8_t>(out, bits, [](float x) { return float_to_f8e4m3(x * kCodeDeviation); });
  } else if (dtype == DType::bf16) {
    fill<std::uint16_t>(out, bits, [&](float x) { return float_to_bf16(d.mean + d.deviation * x); });
  } else {
    fill<float>(out, bits, [&](float x) { return d.mean + d.deviation * x; });
  }
}

struct ShardPlan {
  std::string file;
  std::vector<const ExpectedTensor*> tensors;  // widest dtype first
};

// Cuts the list into pieces of about equal bytes.
std::vector<ShardPlan> cut(const std::vector<ExpectedTensor>& all, const ModelConfig& config,
                           const WriteOptions& options) {
  const int shards = options.shards;
  std::int64_t total = 0;
  for (const auto& tensor : all) total += declare(tensor, config, options).bytes();
  std::vector<ShardPlan> plans(static_cast<std::size_t>(shards));
  std::int64_t at = 0;
  for (const auto& tensor : all) {
    const auto shard = static_cast<std::size_t>(at * shards / std::max<std::int64_t>(total, 1));
    plans[std::min(shard, plans.size() - 1)].tensors.push_back(&tensor);
    at += declare(tensor, config, options).bytes();
  }
  for (std::size_t i = 0; i < plans.size(); ++i) {
    plans[i].file =
        shards == 1 ? "model.safetensors" : fmt::format("model-{:05}-of-{:06}.safetensors", i + 1, shards);
    std::stable_sort(plans[i].tensors.begin(), plans[i].tensors.end(), [&](const auto* a, const auto* b) {
      return size_of(stored_dtype(*a, config, options)) > size_of(stored_dtype(*b, config, options));
    });
  }
  return plans;
}

void write_text(const std::filesystem::path& file, std::string_view text) {
  std::ofstream out(file, std::ios::binary);
  out << text;
  if (!out.flush()) throw FileError(file.string() + ": cannot be written");
}

void write_shard(const std::filesystem::path& dir, const ShardPlan& plan, const ModelConfig& config,
                 const WriteOptions& options) {
  std::vector<Declared> declared;
  std::vector<const ExpectedTensor*> kept;
  std::int64_t bytes = 0;
  for (const ExpectedTensor* tensor : plan.tensors) {
    if (options.omit && options.omit(*tensor)) continue;
    kept.push_back(tensor);
    declared.push_back(declare(*tensor, config, options));
    bytes += declared.back().bytes();
  }
  std::vector<std::byte> buffer;
  const auto content = [&](std::size_t i) -> std::span<const std::byte> {
    buffer.resize(static_cast<std::size_t>(declared[i].bytes()));
    // A scale's width gives its matrix's k up to 127, which is near enough for its deviation.
    fill_tensor(buffer, *kept[i], declared[i].dtype, config, kept[i]->shape[1] * 128,
                Bits(options.seed, kept[i]->name));
    return buffer;
  };
  if (options.sparse) {
    const std::string header = safetensors::make_header(declared);
    write_text(dir / plan.file, header);
    std::filesystem::resize_file(dir / plan.file, header.size() + static_cast<std::size_t>(bytes));
    std::fstream file(dir / plan.file, std::ios::binary | std::ios::in | std::ios::out);
    auto offset = static_cast<std::streamoff>(header.size());
    for (std::size_t i = 0; i < kept.size(); offset += declared[i++].bytes()) {
      if (!options.filled || !options.filled(*kept[i])) continue;
      const auto data = content(i);
      file.seekp(offset);
      file.write(reinterpret_cast<const char*>(data.data()), std::ssize(data));
    }
    if (!file.flush()) throw FileError((dir / plan.file).string() + ": cannot be written");
    return;
  }
  safetensors::Writer writer(dir / plan.file, declared);
  for (std::size_t i = 0; i < kept.size(); ++i) writer.write(content(i));
  writer.commit();
}

}  // namespace

ModelConfig small_config() {
  ModelConfig c;
  c.vocab_size = 320;
  c.hidden_size = 192;
  c.num_hidden_layers = 3;
  c.num_nextn_predict_layers = 1;
  c.max_position_embeddings = 1024;
  c.num_attention_heads = 4;
  c.q_lora_rank = 96;
  c.kv_lora_rank = 128;
  c.qk_nope_head_dim = 64;
  c.qk_rope_head_dim = 32;
  c.v_head_dim = 48;
  c.index_n_heads = 8;
  c.index_head_dim = 128;
  c.index_topk = 64;
  c.intermediate_size = 320;
  c.first_k_dense_replace = 1;
  c.n_routed_experts = 8;
  c.n_shared_experts = 1;
  c.moe_intermediate_size = 96;
  c.num_experts_per_tok = 2;
  c.n_group = 4;
  c.topk_group = 2;
  c.routed_scaling_factor = 1.5;
  c.quantization_config = QuantizationConfig{};
  c.bos_token_id = 0;
  c.eos_token_ids = {1};
  return c;
}

ModelConfig two_gigabyte_config() {
  ModelConfig c = small_config();
  c.vocab_size = 8192;
  c.hidden_size = 1024;
  c.num_hidden_layers = 20;
  c.max_position_embeddings = 8192;
  c.num_attention_heads = 16;
  c.q_lora_rank = 512;
  c.kv_lora_rank = 512;
  c.qk_nope_head_dim = 128;
  c.qk_rope_head_dim = 64;
  c.v_head_dim = 128;
  c.index_n_heads = 32;
  c.index_topk = 512;
  c.intermediate_size = 4096;
  c.n_routed_experts = 64;
  c.moe_intermediate_size = 512;
  c.num_experts_per_tok = 4;
  c.n_group = 8;
  c.topk_group = 4;
  return c;
}

ModelConfig official_config() {
  ModelConfig c;
  c.vocab_size = 129280;
  c.hidden_size = 7168;
  c.num_hidden_layers = 61;
  c.num_nextn_predict_layers = 1;
  c.max_position_embeddings = 163840;
  c.num_attention_heads = 128;
  c.q_lora_rank = 1536;
  c.kv_lora_rank = 512;
  c.qk_nope_head_dim = 128;
  c.qk_rope_head_dim = 64;
  c.v_head_dim = 128;
  c.index_n_heads = 64;
  c.index_head_dim = 128;
  c.index_topk = 2048;
  c.intermediate_size = 18432;
  c.first_k_dense_replace = 3;
  c.n_routed_experts = 256;
  c.n_shared_experts = 1;
  c.moe_intermediate_size = 2048;
  c.num_experts_per_tok = 8;
  c.n_group = 8;
  c.topk_group = 4;
  c.routed_scaling_factor = 2.5;
  c.rope_scaling = RopeScaling{.factor = 40, .mscale = 1.0, .mscale_all_dim = 1.0};
  c.quantization_config = QuantizationConfig{.ue8m0 = true};
  c.bos_token_id = 0;
  c.eos_token_ids = {1};
  return c;
}

std::string config_text(const ModelConfig& c) {
  Json json;
  json["architectures"] = {"DeepseekV32ForCausalLM"};
  json["attention_bias"] = false;
  if (c.bos_token_id) json["bos_token_id"] = *c.bos_token_id;
  if (c.eos_token_ids.size() == 1) json["eos_token_id"] = c.eos_token_ids.front();
  if (c.eos_token_ids.size() > 1) json["eos_token_id"] = c.eos_token_ids;
  json["hidden_act"] = "silu";
  json["hidden_size"] = c.hidden_size;
  json["index_head_dim"] = c.index_head_dim;
  json["index_n_heads"] = c.index_n_heads;
  json["index_topk"] = c.index_topk;
  if (c.intermediate_size > 0) json["intermediate_size"] = c.intermediate_size;
  json["kv_lora_rank"] = c.kv_lora_rank;
  json["max_position_embeddings"] = c.max_position_embeddings;
  json["model_type"] = "deepseek_v32";
  if (c.n_routed_experts > 0) {
    json["first_k_dense_replace"] = c.first_k_dense_replace;
    json["moe_layer_freq"] = c.moe_layer_freq;
    json["moe_intermediate_size"] = c.moe_intermediate_size;
    json["n_group"] = c.n_group;
    json["n_routed_experts"] = c.n_routed_experts;
    json["n_shared_experts"] = c.n_shared_experts;
    json["norm_topk_prob"] = c.norm_topk_prob;
    json["num_experts_per_tok"] = c.num_experts_per_tok;
    json["routed_scaling_factor"] = c.routed_scaling_factor;
    json["scoring_func"] = c.scoring_func;
    json["topk_group"] = c.topk_group;
    json["topk_method"] = "noaux_tc";
  }
  json["num_attention_heads"] = c.num_attention_heads;
  json["num_hidden_layers"] = c.num_hidden_layers;
  json["num_key_value_heads"] = c.num_attention_heads;
  json["num_nextn_predict_layers"] = c.num_nextn_predict_layers;
  json["q_lora_rank"] = c.q_lora_rank;
  json["qk_nope_head_dim"] = c.qk_nope_head_dim;
  json["qk_rope_head_dim"] = c.qk_rope_head_dim;
  if (c.quantization_config) {
    Json& q = json["quantization_config"];
    q = {{"activation_scheme", "dynamic"}, {"fmt", "e4m3"}, {"quant_method", "fp8"}};
    if (c.quantization_config->ue8m0) q["scale_fmt"] = "ue8m0";
    q["weight_block_size"] = {128, 128};
  }
  json["rms_norm_eps"] = c.rms_norm_eps;
  json["rope_scaling"] = nullptr;
  if (const auto& rope = c.rope_scaling) {
    Json& r = json["rope_scaling"];
    r = {{"beta_fast", rope->beta_fast}, {"beta_slow", rope->beta_slow}, {"factor", rope->factor}};
    if (rope->mscale) r["mscale"] = *rope->mscale;
    if (rope->mscale_all_dim) r["mscale_all_dim"] = *rope->mscale_all_dim;
    if (rope->attention_factor) r["attention_factor"] = *rope->attention_factor;
    if (!rope->truncate) r["truncate"] = false;
    r["original_max_position_embeddings"] = rope->original_max_position_embeddings;
    r["type"] = "yarn";
  }
  json["rope_theta"] = c.rope_theta;
  json["tie_word_embeddings"] = false;
  json["torch_dtype"] = "bfloat16";
  json["v_head_dim"] = c.v_head_dim;
  json["vocab_size"] = c.vocab_size;
  return json.dump(2) + "\n";
}

void write_checkpoint(const std::filesystem::path& dir, const ModelConfig& config,
                      const WriteOptions& options) {
  std::filesystem::create_directories(dir);
  write_text(dir / "config.json", config_text(config));
  Json generation = {{"_from_model_config", true}, {"do_sample", false}};
  if (config.bos_token_id) generation["bos_token_id"] = *config.bos_token_id;
  if (!config.eos_token_ids.empty()) generation["eos_token_id"] = config.eos_token_ids;
  write_text(dir / "generation_config.json", generation.dump(2) + "\n");

  const auto all = expected_tensors(config);
  const auto plans = cut(all, config, options);
  for (const ShardPlan& plan : plans) write_shard(dir, plan, config, options);
  if (options.shards == 1) return;
  std::int64_t total = 0;
  Json map = Json::object();
  std::string entries;  // by hand: an ordered object searches all its keys at every insertion
  for (const ShardPlan& plan : plans) {
    for (const ExpectedTensor* tensor : plan.tensors) {
      total += declare(*tensor, config, options).bytes();
      entries += fmt::format("{}    \"{}\": \"{}\"", entries.empty() ? "" : ",\n", tensor->name, plan.file);
    }
  }
  write_text(
      dir / "model.safetensors.index.json",
      fmt::format(
          "{{\n  \"metadata\": {{\n    \"total_size\": {}\n  }},\n  \"weight_map\": {{\n{}\n  }}\n}}\n",
          total, entries));
}

TemporaryDirectory::TemporaryDirectory() {
  std::string name = (std::filesystem::temp_directory_path() / "fathom.XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr) throw FileError(name + ": cannot be made");
  path_ = name;
}

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace fathom
