#include "fathom/engine/config.hpp"

#include <fstream>
#include <nlohmann/json.hpp>

#include "engine/checkpoint_writer.hpp"
#include "ops/op_test.hpp"

namespace fathom {
namespace {

using Json = nlohmann::json;

Json official() { return Json::parse(config_text(official_config())); }

ModelConfig parse(const Json& json) { return ModelConfig::parse(json.dump(), "c.json"); }

// The official config with one value replaced; "a.b" is inside of an object.
Json with(const std::string& key, const Json& value) {
  Json json = official();
  const auto dot = key.find('.');
  (dot == key.npos ? json[key] : json[key.substr(0, dot)][key.substr(dot + 1)]) = value;
  return json;
}

TEST(ModelConfig, ReadsTheOfficialConfig) {
  const ModelConfig c = parse(official());
  EXPECT_EQ(c.num_hidden_layers, 61);
  EXPECT_EQ(c.layer_count(), 62);
  EXPECT_EQ(c.n_routed_experts, 256);
  EXPECT_TRUE(c.quantization_config->ue8m0);
  EXPECT_EQ(c.rope_scaling->factor, 40);
  EXPECT_EQ(c.rope_scaling->mscale_all_dim, 1.0);
  EXPECT_EQ(c.rope_scaling->original_max_position_embeddings, 4096);
  EXPECT_EQ(c.eos_token_ids, std::vector<std::int64_t>{1});
  EXPECT_EQ(config_text(c), config_text(official_config()));
}

TEST(ModelConfig, ReadsTheBundledConfig) {
  const ModelConfig c = ModelConfig::load(std::filesystem::path(FATHOM_SOURCE_DIR) / "models/tiny-dsv32");
  EXPECT_EQ(c.hidden_size, 256);
  EXPECT_EQ(c.index_topk, 256);
  EXPECT_FALSE(c.rope_scaling);
  EXPECT_FALSE(c.quantization_config->ue8m0);
  EXPECT_TRUE(c.has_mtp());
  EXPECT_FALSE(c.is_moe_layer(0));
  EXPECT_TRUE(c.is_moe_layer(1));
  EXPECT_TRUE(c.is_moe_layer(4));
}

TEST(ModelConfig, MixesDenseAndMoeLayers) {
  const auto moe_layers = [](const Json& json) {
    const ModelConfig c = parse(json);
    std::string layers;
    for (std::int64_t layer = 0; layer < c.layer_count(); ++layer)
      layers += c.is_moe_layer(layer) ? 'm' : 'd';
    return layers;
  };
  Json json = Json::parse(config_text(small_config()));
  json["num_hidden_layers"] = 7;
  EXPECT_EQ(moe_layers(json), "dmmmmmmm");
  json["moe_layer_freq"] = 3;
  EXPECT_EQ(moe_layers(json), "dddmddmm");
  json["first_k_dense_replace"] = 0;
  EXPECT_EQ(moe_layers(json), "mddmddmm");
  json["first_k_dense_replace"] = 7;
  json["num_nextn_predict_layers"] = 0;
  EXPECT_EQ(moe_layers(json), "ddddddd");
  json["n_routed_experts"] = nullptr;
  json["num_nextn_predict_layers"] = 1;
  EXPECT_EQ(moe_layers(json), "dddddddd");
  json["first_k_dense_replace"] = 0;
  json["n_routed_experts"] = 8;
  json["moe_layer_freq"] = 1;
  json.erase("intermediate_size");  // no dense layer needs it
  EXPECT_EQ(moe_layers(json), "mmmmmmmm");
}

TEST(ModelConfig, ReadsVariants) {
  EXPECT_FALSE(parse(with("quantization_config", nullptr)).quantization_config);
  EXPECT_FALSE(parse(with("rope_scaling", nullptr)).rope_scaling);
  EXPECT_FALSE(parse(with("rope_scaling", {{"rope_type", "default"}})).rope_scaling);
  EXPECT_FALSE(parse(with("quantization_config.scale_fmt", nullptr)).quantization_config->ue8m0);
  EXPECT_EQ(parse(with("eos_token_id", {5, 6})).eos_token_ids, (std::vector<std::int64_t>{5, 6}));
  EXPECT_TRUE(parse(with("eos_token_id", nullptr)).eos_token_ids.empty());
  EXPECT_EQ(parse(with("scoring_func", "softmax")).scoring_func, "softmax");
}

TEST(ModelConfig, GenerationConfigNamesTheEndTokens) {
  const TemporaryDirectory dir;
  std::ofstream(dir / "config.json") << official();
  EXPECT_EQ(ModelConfig::load(dir.path()).eos_token_ids, std::vector<std::int64_t>{1});
  std::ofstream(dir / "generation_config.json") << R"({"eos_token_id":[7,8],"bos_token_id":3})";
  EXPECT_EQ(ModelConfig::load(dir.path()).eos_token_ids, (std::vector<std::int64_t>{7, 8}));
  EXPECT_EQ(ModelConfig::load(dir.path()).bos_token_id, 3);
  std::ofstream(dir / "generation_config.json") << R"({"eos_token_id":[7,129280]})";
  EXPECT_ERROR(
      FileError,
      "generation_config.json: 'eos_token_id' must be a list of integers from 0 to 129279, got 129280 in it",
      ModelConfig::load(dir.path()));
  std::ofstream(dir / "generation_config.json") << "{";
  EXPECT_ERROR(FileError, "generation_config.json: broken JSON", ModelConfig::load(dir.path()));
}

TEST(ModelConfig, RefusesWhatItCannotRun) {
  struct Bad {
    const char* key;
    Json value;
    const char* message;
  };
  const Bad cases[] = {
      {"model_type", "deepseek_v3", "c.json: 'model_type' must be 'deepseek_v32', got 'deepseek_v3'"},
      {"model_type", nullptr, "c.json: 'model_type' must be a string, got nothing"},
      {"hidden_size", 0, "c.json: 'hidden_size' must be an integer from 1 to 131072, got 0"},
      {"hidden_size", -7168, "got -7168"},
      {"hidden_size", 7168.0, "'hidden_size' must be an integer from 1 to 131072, got 7168.0"},
      {"hidden_size", "7168", "got '7168'"},
      {"hidden_size", 1LL << 62, "got 4611686018427387904"},
      {"hidden_size", 18446744073709551615u, "got 18446744073709551615"},
      {"hidden_size", nullptr, "'hidden_size' must be an integer from 1 to 131072, got nothing"},
      {"num_hidden_layers", 1000000000, "'num_hidden_layers' must be an integer from 1 to 512"},
      {"num_nextn_predict_layers", 2, "'num_nextn_predict_layers' must be an integer from 0 to 1, got 2"},
      {"max_position_embeddings", 1LL << 40, "'max_position_embeddings' must be"},
      {"n_routed_experts", 1 << 20, "'n_routed_experts' must be"},
      {"n_group", 7, "'n_group' must be a divisor of n_routed_experts (256), got 7"},
      {"topk_group", 9, "'topk_group' must be an integer from 1 to 8, got 9"},
      {"num_experts_per_tok", 129, "'num_experts_per_tok' must be an integer from 1 to 128, got 129"},
      {"moe_layer_freq", 0, "'moe_layer_freq' must be"},
      {"kv_lora_rank", 500, "'kv_lora_rank' must be a multiple of 128, got 500"},
      {"qk_rope_head_dim", 63, "'qk_rope_head_dim' must be even, got 63"},
      {"index_head_dim", 64, "'index_head_dim' must be an integer from 128 to 128, got 64"},
      {"index_n_heads", 0, "'index_n_heads' must be"},
      {"attention_bias", true, "'attention_bias' must be false, got true"},
      {"tie_word_embeddings", true, "'tie_word_embeddings' must be false, got true"},
      {"hidden_act", "gelu", "'hidden_act' must be 'silu', got 'gelu'"},
      {"scoring_func", "tanh", "'scoring_func' must be 'sigmoid' or 'softmax', got 'tanh'"},
      {"topk_method", "greedy", "'topk_method' must be 'noaux_tc', got 'greedy'"},
      {"rms_norm_eps", -1, "'rms_norm_eps' must be a number from 0 to 1, got -1"},
      {"rope_theta", nullptr, "'rope_theta' must be a number"},
      {"rope_scaling", "yarn", "'rope_scaling' must be an object, got 'yarn'"},
      {"rope_scaling.type", "linear", "'rope_scaling.type' must be 'yarn' or 'default', got 'linear'"},
      {"rope_scaling.factor", nullptr, "'rope_scaling.factor' must be a number from 1 to"},
      {"rope_scaling.factor", 0.5, "got 0.5"},
      {"rope_scaling.truncate", 1, "'rope_scaling.truncate' must be true or false, got 1"},
      {"quantization_config.quant_method", "awq",
       "'quantization_config.quant_method' must be 'fp8', got 'awq'"},
      {"quantization_config.weight_block_size",
       {64, 128},
       "'quantization_config.weight_block_size' must be [128, 128]"},
      {"quantization_config.weight_block_size", nullptr,
       "'quantization_config.weight_block_size' must be a list"},
      {"quantization_config.scale_fmt", "e5m2",
       "'quantization_config.scale_fmt' must be 'ue8m0', got 'e5m2'"},
      {"quantization_config.activation_scheme", "static", "must be 'dynamic', got 'static'"},
      {"eos_token_id", 129280, "'eos_token_id' must be an integer from 0 to 129279, got 129280"},
      {"eos_token_id", {1, "x"}, "got 'x' in it"},
      {"bos_token_id", {0, 1}, "'bos_token_id' must be one token id, got a list of 2"},
  };
  for (const Bad& bad : cases) {
    SCOPED_TRACE(bad.key);
    EXPECT_ERROR(FileError, bad.message, parse(with(bad.key, bad.value)));
    EXPECT_ERROR(FileError, "c.json: '", parse(with(bad.key, bad.value)));
  }
  EXPECT_ERROR(FileError, "c.json: must hold a JSON object, holds a list of 0", parse(Json::array()));
  EXPECT_ERROR(FileError, "c.json: the key 'a' occurs twice",
               ModelConfig::parse(R"({"a":1,"a":2})", "c.json"));
  EXPECT_ERROR(FileError, "c.json: broken JSON at line 1, column 15",
               ModelConfig::parse(R"({"model_type":)", "c.json"));
}

TEST(ModelConfig, RefusesAbsurdTotalsBeforeAllocating) {
  Json json = official();
  json["hidden_size"] = 131072;
  json["moe_intermediate_size"] = 131072;
  EXPECT_ERROR(FileError, "c.json: asks for 7.82e+14", parse(json));
  EXPECT_ERROR(FileError, "parameters; the most this library takes is 4e+12", parse(json));
}

TEST(ModelConfig, RefusesMoreExpertsThanCanBePlanned) {
  Json json = official();
  json["n_routed_experts"] = 1024;
  json["num_hidden_layers"] = 500;
  EXPECT_ERROR(FileError,
               "c.json: asks for 509952 routed experts in all layers; the most this library takes is 65536",
               parse(json));
}

TEST(ModelConfig, NamesTheFileThatIsMissing) {
  const TemporaryDirectory dir;
  EXPECT_ERROR(FileError, (dir / "config.json").string() + ": cannot be opened: No such file or directory",
               ModelConfig::load(dir.path()));
  std::filesystem::create_directory(dir / "config.json");
  EXPECT_ERROR(FileError, "config.json: must be a file, is a directory", ModelConfig::load(dir.path()));
  std::filesystem::remove(dir / "config.json");
  std::ofstream(dir / "config.json") << std::string(2 << 20, ' ');
  EXPECT_ERROR(FileError, "config.json: must have at most 1048576 bytes, has 2097152",
               ModelConfig::load(dir.path()));
}

}  // namespace
}  // namespace fathom
