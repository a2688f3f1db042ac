// What drafting leaves behind and when it stops.
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

}  // namespace
}  // namespace fathom
