// The bundled model against its reference outputs; models/tiny-dsv32/goldens/README.md says what they are.
#include "engine/golden.hpp"

#include <cmath>
#include <cstdio>
#include <map>
#include <set>

#include "fathom/engine/config.hpp"

namespace fathom {
namespace {

double largest_difference(std::span<const float> got, std::span<const float> expected) {
  EXPECT_EQ(got.size(), expected.size());
  double worst = 0;
  for (std::size_t i = 0; i < std::min(got.size(), expected.size()); ++i)
    worst = std::max(worst, std::abs(static_cast<double>(got[i]) - static_cast<double>(expected[i])));
  return worst;
}

// The last 8 prompt positions of every prompt: the residual stream behind every layer, model.norm, the
// logits. Then the continuation, teacher-forced: its tokens, and the MTP layer's drafts.
TEST(Golden, Fp32FollowsTheReferenceOnEveryPrompt) {
  const Model& model = tiny_model(Precision::fp32);
  const auto vocab = static_cast<std::size_t>(model.config().vocab_size);
  const auto drafts = golden_json("mtp.json")["prompts"];
  for (const GoldenPrompt& prompt : golden_prompts()) {
    if (kSanitized && prompt.ids.size() > 300) continue;
    SCOPED_TRACE(prompt.name);
    const Ids path = prompt.path();
    const auto size = static_cast<std::int64_t>(prompt.ids.size());
    Trace trace(model, static_cast<std::int64_t>(path.size()));
    std::vector<float> residual;  // [layer][8][hidden]
    std::int64_t rows_seen = 0;
    const LayerObserver observer{.on_hidden = [&](std::int64_t layer, const TensorView& x) {
      if (layer == 0) rows_seen += x.size(0);
      if (rows_seen != size) return;
      const TensorView last = x.rows(x.size(0) - 8, x.size(0));
      residual.insert(residual.end(), last.as<float>(), last.as<float>() + last.count());
    }};
    trace.runner().observe(&observer);
    const std::int64_t head = size - 8;  // so that the last 8 rows are in one chunk
    trace.extend(std::span(path).first(static_cast<std::size_t>(head)));
    trace.extend(std::span(path).subspan(static_cast<std::size_t>(head), 8));
    trace.runner().observe(nullptr);
    const TensorView normed = trace.hidden().rows(head, size);
    residual.insert(residual.end(), normed.as<float>(), normed.as<float>() + normed.count());
    EXPECT_LE(largest_difference(residual, golden_tensor(prompt.name + ".hidden_last8")), 2e-3);
    EXPECT_LE(largest_difference(trace.logits(head, size), golden_tensor(prompt.name + ".logits_last8")),
              2e-3);

    trace.extend(std::span(path).subspan(static_cast<std::size_t>(size)));
    const auto logits = trace.logits(size - 1, size + 63);
    const auto entry = std::find_if(drafts.begin(), drafts.end(),
                                    [&](const auto& draft) { return draft["name"] == prompt.name; });
    const std::vector<double> draft_margins = (*entry)["draft_top1_minus_top2"];
    const Ids draft_ids = (*entry)["draft_ids"];
    const auto mtp = trace.mtp_logits(size - 1);
    int clear = 0;
    for (std::size_t s = 0; s < 64; ++s) {
      EXPECT_EQ(argmax_of(std::span(logits).subspan(s * vocab, vocab)), prompt.continuation[s]) << s;
      if (s >= draft_ids.size() || draft_margins[s] <= 1e-3) continue;
      EXPECT_EQ(argmax_of(std::span(mtp).subspan(s * vocab, vocab)), draft_ids[s]) << "draft " << s;
      ++clear;
    }
    EXPECT_GE(clear, 50);
  }
}

TEST(Golden, Fp32GreedyContinuationsTokenForToken) {
  Session session(tiny_model(Precision::fp32), test_context());
  for (const GoldenPrompt& prompt : golden_prompts()) {
    if (kSanitized && prompt.ids.size() > 300) continue;
    const Generation result = session.generate(prompt.ids, {.max_tokens = 64, .ignore_eos = true});
    EXPECT_EQ(result.output_ids, prompt.continuation) << prompt.name;
    EXPECT_GT(result.stats.drafts_accepted, 0) << prompt.name;
  }
}

// Per layer, the 256 positions the last token of p1000 attends to. Positions may differ from the reference
// only among scores that are closer to each other than 1e-5, relatively.
TEST(Golden, Fp32SelectsTheReferencePositions) {
  const auto golden = golden_json("index_topk.json");
  const auto prompts = golden_prompts();
  const auto prompt = std::find_if(prompts.begin(), prompts.end(), [&](const GoldenPrompt& p) {
    return p.name == golden["prompt"].get<std::string>();
  });
  const auto size = static_cast<std::int64_t>(prompt->ids.size());
  ASSERT_EQ(golden["query_position"], size - 1);
  Trace trace(tiny_model(Precision::fp32), size);
  trace.extend(std::span(prompt->ids).first(prompt->ids.size() - 1));
  std::size_t layers = 0;
  const LayerObserver observer{
      .on_selection = [&](std::int64_t layer, const TensorView& scores, const TensorView& selected) {
        SCOPED_TRACE("layer " + std::to_string(layer));
        const auto& reference = golden["layers"][static_cast<std::size_t>(layer)];
        std::map<std::int32_t, std::int32_t> position_of;  // slot -> position
        const auto pages = trace.cache().pages(trace.sequence());
        for (std::int64_t p = 0; p < size; ++p)
          position_of[pages[static_cast<std::size_t>(p / 64)] * 64 + static_cast<std::int32_t>(p % 64)] =
              static_cast<std::int32_t>(p);
        std::set<std::int32_t> got;
        for (std::int64_t i = 0; i < selected.count(); ++i)
          got.insert(position_of.at(selected.as<std::int32_t>()[i]));
        const std::set<std::int32_t> expected = reference["positions"];
        EXPECT_EQ(got.size(), 256u);
        const double edge = reference["lowest_selected_score"];
        EXPECT_NEAR(*std::max_element(scores.as<float>(), scores.as<float>() + size),
                    static_cast<double>(reference["highest_score"]), 1e-4);
        for (std::int32_t p = 0; p < static_cast<std::int32_t>(size); ++p) {
          if (got.count(p) == expected.count(p)) continue;
          EXPECT_NEAR(static_cast<double>(scores.as<float>()[p]), edge, 1e-5 * std::abs(edge))
              << "position " << p;
        }
        ++layers;
      }};
  trace.runner().observe(&observer);
  trace.extend(std::span(prompt->ids).last(1));
  EXPECT_EQ(layers, 4u);
}

class GoldenPerplexity : public testing::TestWithParam<Precision> {};
INSTANTIATE_TEST_SUITE_P(Precisions, GoldenPerplexity, testing::Values(Precision::fp8, Precision::fp32),
                         [](const auto& param) { return name_of(param.param); });

TEST_P(GoldenPerplexity, IsThatOfTheReference) {
  if (kSanitized) GTEST_SKIP() << "8192 tokens; the other tests take the same paths";
  const auto golden = golden_json("perplexity.json");
  Session session(tiny_model(GetParam()), test_context());
  std::int64_t done = 0;
  const Perplexity got =
      session.perplexity(golden_perplexity_ids(), 1024, [&](std::int64_t now, std::int64_t total) {
        EXPECT_GT(now, done);
        EXPECT_EQ(total, 8 * 1024);
        done = now;
      });
  EXPECT_EQ(done, 8 * 1024);
  EXPECT_EQ(got.predicted, 8 * 1023);
  const double expected = golden["perplexity"];
  EXPECT_NEAR(got.perplexity, expected, expected * (GetParam() == Precision::fp32 ? 1e-3 : 1e-2));
  const std::vector<double> windows = golden["nll_per_sequence"];
  ASSERT_EQ(got.nll_per_window.size(), windows.size());
  for (std::size_t i = 0; i < windows.size(); ++i)
    EXPECT_NEAR(got.nll_per_window[i], windows[i], GetParam() == Precision::fp32 ? 1e-4 : 5e-2);
  RecordProperty("perplexity", std::to_string(got.perplexity));
  std::printf("perplexity, %s: %.4f (reference %.4f)\n", name_of(GetParam()).c_str(), got.perplexity,
              expected);
}

// fp8 rounds: it need not choose every token of the reference, but most, and its logits stay near.
TEST(Golden, Fp8StaysNearTheReference) {
  const Model& model = tiny_model(Precision::fp8);
  const auto vocab = static_cast<std::size_t>(model.config().vocab_size);
  int same = 0, positions = 0;
  double squares = 0;
  std::size_t count = 0;
  for (const GoldenPrompt& prompt : golden_prompts()) {
    if (kSanitized && prompt.ids.size() > 1000) continue;
    const Ids path = prompt.path();
    const auto size = static_cast<std::int64_t>(prompt.ids.size());
    Trace trace(model, static_cast<std::int64_t>(path.size()));
    trace.extend(path);
    const auto forced = trace.logits(size - 1, size + 63);
    for (std::size_t s = 0; s < 64; ++s, ++positions)
      same += argmax_of(std::span(forced).subspan(s * vocab, vocab)) == prompt.continuation[s];
    const auto last = trace.logits(size - 8, size);
    const auto golden = golden_tensor(prompt.name + ".logits_last8");
    for (std::size_t i = 0; i < golden.size(); ++i, ++count)
      squares += std::pow(static_cast<double>(last[i]) - static_cast<double>(golden[i]), 2);
  }
  const double share = static_cast<double>(same) / positions;
  const double rms = std::sqrt(squares / static_cast<double>(count));
  EXPECT_GE(share, 0.92);
  EXPECT_LE(rms, 0.3);
  EXPECT_GT(rms, 0.01);  // it is fp8
  std::printf("fp8: %.1f %% of the reference's choices, rms logit difference %.3f\n", 100 * share, rms);
}

}  // namespace
}  // namespace fathom
