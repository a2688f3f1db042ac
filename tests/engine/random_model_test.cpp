// Random models of every shape the loader takes: they run, both precisions agree roughly, drafts change
// nothing.
#include <algorithm>
#include <cmath>
#include <random>

#include "engine/checkpoint_writer.hpp"
#include "engine/golden.hpp"

namespace fathom {
namespace {

struct Variant {
  const char* name;
  void (*change)(ModelConfig&);
  DType plain = DType::bf16;
};

const Variant kVariants[] = {
    {"AsItIs", [](ModelConfig&) {}},
    {"Bf16Weights", [](ModelConfig& c) { c.quantization_config.reset(); }},
    {"Ue8m0Scales", [](ModelConfig& c) { c.quantization_config->ue8m0 = true; }},
    {"F32GateAndNorms", [](ModelConfig&) {}, DType::f32},
    {"NoMtp", [](ModelConfig& c) { c.num_nextn_predict_layers = 0; }},
    {"DenseOnly",
     [](ModelConfig& c) {
       c.n_routed_experts = 0;
       c.n_shared_experts = 0;
     }},
    {"MoeOnlyWithoutSharedExperts",
     [](ModelConfig& c) {
       c.first_k_dense_replace = 0;
       c.n_shared_experts = 0;
       c.norm_topk_prob = false;
     }},
    {"EverySecondLayerMoe",
     [](ModelConfig& c) {
       c.moe_layer_freq = 2;
       c.n_shared_experts = 2;
     }},
    {"Yarn",
     [](ModelConfig& c) {
       c.rope_scaling = RopeScaling{
           .factor = 4, .original_max_position_embeddings = 256, .mscale = 1.0, .mscale_all_dim = 1.0};
     }},
    {"RaggedSizes",
     [](ModelConfig& c) {
       c.hidden_size = 200;
       c.vocab_size = 333;
       c.q_lora_rank = 72;
       c.num_attention_heads = 3;
       c.qk_nope_head_dim = 40;
       c.v_head_dim = 24;
       c.moe_intermediate_size = 72;
       c.index_n_heads = 3;
       c.index_topk = 50;
     }},
};

class RandomModel : public testing::TestWithParam<Variant> {};
INSTANTIATE_TEST_SUITE_P(Configs, RandomModel, testing::ValuesIn(kVariants),
                         [](const auto& param) { return std::string(param.param.name); });

Ids random_ids(std::int64_t count, std::int64_t vocab, unsigned seed) {
  std::mt19937 engine(seed);
  Ids ids;
  for (std::int64_t i = 0; i < count; ++i)
    ids.push_back(static_cast<std::int32_t>(engine() % static_cast<unsigned>(vocab)));
  return ids;
}

TEST_P(RandomModel, RunsAlikeInBothPrecisions) {
  ModelConfig config = small_config();
  GetParam().change(config);
  const TemporaryDirectory dir;
  write_checkpoint(dir / "model", config, {.plain = GetParam().plain});
  const Ids prompt = random_ids(150, config.vocab_size, 11);  // beyond index_topk
  std::vector<float> logits[2];
  for (const Precision precision : {Precision::fp32, Precision::fp8}) {
    SCOPED_TRACE(to_string(precision));
    const Model model = Model::load(dir / "model", {.precision = precision}, test_context());
    Session whole(model, test_context(1), {.prefill_chunk = 0});
    Session chunks(model, test_context(2), {.prefill_chunk = 13});
    auto& mine = logits[precision == Precision::fp8];
    mine = whole.logits(prompt, 100);
    EXPECT_EQ(chunks.logits(prompt, 100), mine);
    for (const float logit : mine) ASSERT_TRUE(std::isfinite(logit));
    const Ids plain =
        whole.generate(prompt, {.max_tokens = 12, .draft_tokens = 0, .ignore_eos = true}).output_ids;
    EXPECT_EQ(plain.size(), 12u);
    for (const std::int64_t drafts : {1, 3, 7}) {
      const GenerateOptions options{
          .max_tokens = 12, .draft_tokens = drafts, .adaptive_drafts = drafts == 3, .ignore_eos = true};
      if (config.has_mtp()) {
        EXPECT_EQ(chunks.generate(prompt, options).output_ids, plain) << drafts << " drafts";
      } else {
        EXPECT_ERROR(InvalidArgument, "'draft_tokens' must be 0 for a model without an MTP layer",
                     chunks.generate(prompt, options));
      }
    }
  }
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < logits[0].size(); ++i) {
    difference += std::pow(static_cast<double>(logits[1][i]) - static_cast<double>(logits[0][i]), 2);
    size += std::pow(static_cast<double>(logits[0][i]), 2);
  }
  EXPECT_GT(size / static_cast<double>(logits[0].size()), 1e-3);
  EXPECT_LT(std::sqrt(difference / size), 0.35);
  RecordProperty("relative_rms_difference", std::to_string(std::sqrt(difference / size)));
}

TEST(RandomModelLimits, GenerationEndsAtTheLastPosition) {
  ModelConfig config = small_config();
  config.max_position_embeddings = 130;
  const TemporaryDirectory dir;
  write_checkpoint(dir / "model", config);
  const Model model = Model::load(dir / "model", {}, test_context());
  Session session(model, test_context());
  for (const std::int64_t drafts : {0, 7}) {
    for (const std::int64_t size : {120, 127, 130}) {
      const Generation result = session.generate(random_ids(size, config.vocab_size, 3),
                                                 {.max_tokens = 100,
                                                  .draft_tokens = drafts,
                                                  .adaptive_drafts = false,  // else there would be one a step
                                                  .ignore_eos = true});
      // The token behind the last position can still be predicted.
      EXPECT_EQ(static_cast<std::int64_t>(result.output_ids.size()), 130 - size + 1);
      EXPECT_EQ(result.finish_reason, FinishReason::length);
    }
  }
}

// A token of the plain output becomes the end token: whatever the drafts, output ends with its first
// occurrence.
TEST(RandomModelLimits, OutputEndsWithTheEndToken) {
  ModelConfig config = small_config();
  const TemporaryDirectory dir;
  write_checkpoint(dir / "plain", config);
  const Ids prompt = random_ids(20, config.vocab_size, 5);
  Ids expected;
  {
    const Model model = Model::load(dir / "plain", {}, test_context());
    expected =
        Session(model, test_context()).generate(prompt, {.max_tokens = 20, .ignore_eos = true}).output_ids;
  }
  config.eos_token_ids = {319, expected[9]};
  expected.resize(
      static_cast<std::size_t>(std::find(expected.begin(), expected.end(), expected[9]) - expected.begin()) +
      1);
  write_checkpoint(dir / "ending", config);
  const Model model = Model::load(dir / "ending", {}, test_context());
  Session session(model, test_context());
  for (std::int64_t drafts = 0; drafts <= kMaxDraftTokens; ++drafts) {
    Ids streamed;
    const Generation result =
        session.generate(prompt, {.max_tokens = 20,
                                  .draft_tokens = drafts,
                                  .adaptive_drafts = drafts % 2 == 0,
                                  .on_token = [&](std::int32_t token) { streamed.push_back(token); }});
    EXPECT_EQ(result.output_ids, expected) << drafts << " drafts";
    EXPECT_EQ(streamed, expected);
    EXPECT_EQ(result.finish_reason, FinishReason::eos);
    EXPECT_EQ(result.stats.output_tokens, static_cast<std::int64_t>(expected.size()));
  }
  const MemoryUse memory = session.memory();
  EXPECT_EQ(memory.caches, 64 * model.cache_shape().bytes_per_token());  // 40 tokens: one page
  EXPECT_GT(memory.weights_mapped, 1 << 20);
  EXPECT_GT(memory.weights_derived, 0);
  EXPECT_GT(memory.workspace, 0);
}

}  // namespace
}  // namespace fathom
