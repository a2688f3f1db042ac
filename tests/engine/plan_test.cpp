#include "fathom/engine/plan.hpp"

#include <algorithm>
#include <chrono>

#include "engine/checkpoint_writer.hpp"
#include "fathom/engine/checkpoint.hpp"
#include "ops/op_test.hpp"

namespace fathom {
namespace {

std::filesystem::path bundled_model() {
  return std::filesystem::path(FATHOM_SOURCE_DIR) / "models/tiny-dsv32";
}

TEST(ModelPlan, DescribesTheBundledModel) {
  const ModelPlan plan = plan_model(Checkpoint::open(bundled_model()));
  EXPECT_EQ(plan.parameters, 20987776);  // as its model card says
  EXPECT_EQ(plan.weight_bytes, 27480552);
  EXPECT_EQ(plan.expected, plan.present);
  EXPECT_TRUE(plan.missing.empty() && plan.wrong.empty() && plan.missing_files.empty());
  EXPECT_EQ(plan.cache[0].kv, 5 * 656);
  EXPECT_EQ(plan.cache[1].kv, 5 * 2 * 576);
  EXPECT_EQ(plan.cache[2].kv, 5 * 4 * 576);
  EXPECT_EQ(plan.cache[0].index_fp8, 5 * 132);
  EXPECT_EQ(plan.cache[0].index_f32, 5 * 512);
  // Of 12 routed experts a token skips, each has three matrices of 128 x 256.
  EXPECT_EQ(plan.active_parameters, plan.parameters - plan.mtp_parameters - 3 * 12 * 3 * 128 * 256);
}

// 671.0e9 parameters and 37.6e9 active are DeepSeek-V3's; the indexer adds 0.85e9 to both.
TEST(ModelPlan, MapsSparseFilesOfTheOfficialSize) {
  const TemporaryDirectory dir;
  const std::string dropped = "model.layers.30.mlp.experts.17.up_proj.weight";
  write_checkpoint(
      dir.path(), official_config(),
      {.shards = 163, .sparse = true, .omit = [&](const ExpectedTensor& t) { return t.name == dropped; }});
  std::filesystem::remove(dir / "model-00163-of-000163.safetensors");
  [[maybe_unused]] const auto start = std::chrono::steady_clock::now();
  const ModelPlan plan = plan_model(Checkpoint::open(dir.path(), {.allow_missing = true}));
#ifndef __SANITIZE_ADDRESS__
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(2));  // some 0.3 s
#endif
  EXPECT_GT(plan.expected, 90000);
  EXPECT_NEAR(static_cast<double>(plan.parameters - plan.mtp_parameters), 671.9e9, 0.1e9);
  EXPECT_NEAR(static_cast<double>(plan.active_parameters), 38.4e9, 0.1e9);
  EXPECT_EQ(plan.missing_files, std::vector<std::string>{"model-00163-of-000163.safetensors"});
  EXPECT_NE(std::find(plan.missing.begin(), plan.missing.end(), dropped), plan.missing.end());
  EXPECT_NE(std::find(plan.missing.begin(), plan.missing.end(), "lm_head.weight"), plan.missing.end());
  EXPECT_EQ(plan.left_out, 1);  // the MTP layer's head
  EXPECT_EQ(plan.expected, plan.present + std::ssize(plan.missing) + plan.left_out);
  EXPECT_GT(plan.weight_bytes, 600e9);
  EXPECT_TRUE(plan.wrong.empty());
}

TEST(ModelPlan, ListsWrongTensors) {
  const TemporaryDirectory dir;
  ModelConfig config = small_config();
  write_checkpoint(dir.path(), config);
  config.vocab_size += 8;
  config.n_routed_experts = 4;
  const TemporaryDirectory other;
  write_checkpoint(other.path(), config, {.sparse = true});
  std::filesystem::copy_file(other / "config.json", dir / "config.json",
                             std::filesystem::copy_options::overwrite_existing);
  const ModelPlan plan = plan_model(Checkpoint::open(dir.path()));
  EXPECT_TRUE(plan.missing.empty());
  EXPECT_EQ(std::count(plan.wrong.begin(), plan.wrong.end(),
                       "tensor 'lm_head.weight' must have shape [328,192], has [320,192]"),
            1);
  EXPECT_EQ(plan.wrong.size(), 2u + 2 + 3 + 3);  // embedding and head, twice; router and its bias in 3 layers
}

TEST(ModelPlan, ExpectsScalesOnlyOfFp8) {
  ModelConfig config = small_config();
  const auto count = [&] { return std::ssize(expected_tensors(config)); };
  const auto fp8 = count();
  const auto tensors = expected_tensors(config);
  const auto scales = std::count_if(tensors.begin(), tensors.end(),
                                    [](const ExpectedTensor& t) { return t.kind == TensorKind::scale; });
  config.quantization_config.reset();
  EXPECT_EQ(count(), fp8 - scales);
  config.num_nextn_predict_layers = 0;
  for (const ExpectedTensor& tensor : expected_tensors(config)) {
    EXPECT_EQ(tensor.name.find("layers.3"), std::string::npos) << tensor.name;
  }
}

}  // namespace
}  // namespace fathom
