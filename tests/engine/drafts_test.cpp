// What drafting leaves behind and when it stops.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "engine/golden.hpp"
#include "engine/speculative/draft_length.hpp"
#include "engine/speculative/drafter.hpp"
#include "fathom/engine/config.hpp"

namespace fathom {
namespace {

TEST(DraftLength, RestsWhileFirstDraftsAreRefused) {
  DraftLength length(5, /*adaptive=*/true);
  int steps = 0;
  for (; length.next() == 5; ++steps) length.learn(5, 0);
  EXPECT_EQ(steps, 4);  // 7/8 to the fourth power is below 0.6
  for (int rest = 1; rest < 8; ++rest) {
    EXPECT_EQ(length.next(), 0);
    length.learn(0, 0);
  }
  EXPECT_EQ(length.next(), 5);
  length.learn(2, 1);  // of the chain only the first counts
  EXPECT_EQ(length.next(), 5);
  length.learn(1, 0);
  EXPECT_EQ(length.next(), 0);
}

TEST(DraftLength, StaysAsAskedIfFixed) {
  DraftLength length(3, /*adaptive=*/false);
  for (int step = 0; step < 20; ++step) {
    EXPECT_EQ(length.next(), 3);
    length.learn(3, 0);
  }
  EXPECT_EQ(length.least(), 0.0f);
}

constexpr std::int64_t kTokens = 300;  // beyond index_topk
constexpr std::int64_t kPrompt = 270;
constexpr std::int64_t kDrafts = 5;

/// A drafter behind a prompt whose continuation the main model has seen already.
class Drafting {
 public:
  explicit Drafting(Precision precision)
      : layer_(tiny_model(precision).config().num_hidden_layers),
        trace_(tiny_model(precision), kTokens + kDrafts),
        drafter_(trace_.runner(), trace_.cache(), trace_.sequence()) {
    const Ids all = golden_perplexity_ids();
    ids_.assign(all.begin() + 4096, all.begin() + 4096 + kTokens);
    trace_.extend(ids_);
    for (const TensorView& cache : {entries(), index_keys()})  // NaN, which nobody may read
      std::memset(cache.data, 0xff, static_cast<std::size_t>(cache.count() * size_of(cache.dtype)));
    store(ForwardMode::extend, kPrompt - 1);
  }

  void store(ForwardMode mode, std::int64_t count) {
    const auto [states, tokens] = next(count);
    drafter_.store(mode, states, tokens);
  }
  Ids propose(std::int64_t count, std::int64_t drafts, float least = 0) {
    Ids result(static_cast<std::size_t>(drafts), -1);
    const auto [states, tokens] = next(count);
    result.resize(static_cast<std::size_t>(drafter_.propose(states, tokens, result, least)));
    return result;
  }
  std::int64_t left() const { return kTokens - 1 - drafter_.rows(); }
  Trace& trace() { return trace_; }
  /// The layer's caches.
  TensorView entries() { return trace_.cache().kv(layer_); }
  TensorView index_keys() { return trace_.cache().index_keys(layer_); }

 private:
  std::pair<TensorView, std::span<const std::int32_t>> next(std::int64_t count) {
    const std::int64_t rows = drafter_.rows();
    return {trace_.hidden().rows(rows, rows + count),
            std::span(ids_).subspan(static_cast<std::size_t>(rows + 1), static_cast<std::size_t>(count))};
  }

  std::int64_t layer_;
  Trace trace_;
  Drafter drafter_;
  Ids ids_;
};

class Drafts : public testing::TestWithParam<Precision> {};
INSTANTIATE_TEST_SUITE_P(Precisions, Drafts, testing::Values(Precision::fp8, Precision::fp32),
                         [](const auto& param) { return name_of(param.param); });

// Drafting may rest, and steps commit any number of rows: the layer's caches have the bytes that they have
// when all rows come at once, and so what is drafted next is the same.
TEST_P(Drafts, DoNotDependOnHowRowsCame) {
  Drafting whole(GetParam());
  whole.store(ForwardMode::extend, whole.left() - 1);
  const Ids expected = whole.propose(1, kDrafts);
  ASSERT_EQ(expected.size(), static_cast<std::size_t>(kDrafts));
  const auto expect_like_whole = [&](Drafting& other) {
    EXPECT_EQ(other.propose(other.left(), kDrafts), expected);
    expect_same_bytes(other.entries(), whole.entries());
    expect_same_bytes(other.index_keys(), whole.index_keys());
  };
  Drafting resting(GetParam());
  while (resting.left() > 1) resting.store(ForwardMode::draft_extend, 1);
  expect_like_whole(resting);
  Drafting mixed(GetParam());
  for (const std::int64_t count : {1, 4, 2, 3}) {
    mixed.propose(count, kDrafts);
    mixed.store(ForwardMode::draft_extend, 3);
    mixed.store(ForwardMode::draft_extend, 1);
  }
  expect_like_whole(mixed);  // whose last four come in one
}

// The chain goes on behind a draft as probable as asked, and ends behind one less probable.
TEST_P(Drafts, EndBehindOneLessProbableThanAsked) {
  Drafting drafting(GetParam());
  drafting.store(ForwardMode::extend, drafting.left() - 1);
  const Ids all = drafting.propose(1, kDrafts);
  const std::vector<float> logits = drafting.trace().mtp_logits(kTokens - 2);
  const auto largest = static_cast<double>(logits[static_cast<std::size_t>(argmax_of(logits))]);
  EXPECT_EQ(all[0], argmax_of(logits));
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - largest);
  for (const double factor : {0.0, 0.999, 1.001, 2.0}) {
    SCOPED_TRACE(factor);
    Drafting again(GetParam());
    again.store(ForwardMode::extend, again.left() - 1);
    const Ids two = again.propose(1, 2, static_cast<float>(factor / sum));
    EXPECT_EQ(two, Ids(all.begin(), all.begin() + (factor < 1 ? 2 : 1)));
  }
}

// A session proposes what the layer proposes that has seen the whole text, also behind a rest.
TEST(SessionDrafts, AreThoseOfTheWholeText) {
  const Ids all = golden_perplexity_ids();
  std::int64_t behind_rests = 0;
  for (std::int64_t chapter = 0; chapter < (kSanitized ? 2 : 8); ++chapter) {
    SCOPED_TRACE(chapter);
    Ids text(all.begin() + chapter * 1024 + 500, all.begin() + chapter * 1024 + 530);
    auto at = std::ssize(text);  // where the last token that is out stands
    Session session(tiny_model(Precision::fp8), test_context());
    const Generation got =
        session.generate(text, {.max_tokens = 64, .draft_tokens = kDrafts, .ignore_eos = true});
    text.insert(text.end(), got.output_ids.begin(), got.output_ids.end());

    Trace trace(tiny_model(Precision::fp8), std::ssize(text) + kDrafts);
    trace.extend(text);
    Drafter drafter(trace.runner(), trace.cache(), trace.sequence());
    DraftLength length(kDrafts, /*adaptive=*/true);
    const auto states = [&](std::int64_t end) { return trace.hidden().rows(drafter.rows(), end); };
    const auto tokens = [&](std::int64_t end) {
      return std::span<const std::int32_t>(text.begin() + drafter.rows() + 1, text.begin() + end + 1);
    };
    GenerateStats expected;
    bool rested = false;
    for (std::int64_t left; (left = std::ssize(text) - 1 - at) > 0; ++expected.steps) {
      const std::int64_t next = length.next();
      rested = rested || next == 0;
      Ids drafts(static_cast<std::size_t>(std::min(next, left - 1)));
      if (!drafts.empty()) {
        drafter.store(ForwardMode::extend, states(at - 1), tokens(at - 1));
        drafts.resize(
            static_cast<std::size_t>(drafter.propose(states(at), tokens(at), drafts, length.least())));
        behind_rests += rested;
      }
      const auto proposed = std::ssize(drafts);
      const auto accepted =
          std::mismatch(drafts.begin(), drafts.end(), text.begin() + at + 1).first - drafts.begin();
      length.learn(proposed, accepted);
      expected.drafts_proposed += proposed;
      expected.drafts_accepted += accepted;
      at += 1 + accepted;
    }
    EXPECT_EQ(got.stats.steps, expected.steps);
    EXPECT_EQ(got.stats.drafts_proposed, expected.drafts_proposed);
    EXPECT_EQ(got.stats.drafts_accepted, expected.drafts_accepted);
  }
  EXPECT_TRUE(kSanitized || behind_rests > 0);
}

}  // namespace
}  // namespace fathom
