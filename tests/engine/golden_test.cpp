// The bundled model against its reference outputs; models/tiny-dsv32/goldens/README.md says what they are.
#include "engine/golden.hpp"

#include <cmath>
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
    if (prompt.ids.size() > 300) continue;  // until attention is fast
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

}  // namespace
}  // namespace fathom
