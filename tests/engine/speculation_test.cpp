// Speculative decoding changes the speed of the output, never the output.
#include <atomic>
#include <cmath>
#include <map>
#include <utility>

#include "engine/golden.hpp"
#include "engine/sampling/sampler.hpp"
#include "fathom/engine/config.hpp"

namespace fathom {
namespace {

/// 20 prompts of 1 to 320 tokens: three golden ones and pieces of held-out chapters. Some grow beyond
/// index_topk (256) while they generate.
std::vector<Ids> twenty_prompts() {
  std::vector<Ids> prompts;
  for (const GoldenPrompt& prompt : golden_prompts())
    if (prompt.ids.size() <= 300) prompts.push_back(prompt.ids);
  const Ids all = golden_perplexity_ids();
  for (const std::int64_t size : {1, 2, 3, 8, 30, 63, 64, 65, 100, 127, 128, 190, 240, 250, 255, 256, 320}) {
    const auto begin = all.begin() + static_cast<std::ptrdiff_t>(prompts.size() % 8) * 1024;
    prompts.emplace_back(begin, begin + size);
  }
  return prompts;
}

Generation run(Precision precision, const Ids& prompt, const GenerateOptions& options, int threads = 2,
               std::int64_t chunk = 256) {
  Session session(tiny_model(precision), test_context(threads), {.prefill_chunk = chunk});
  return session.generate(prompt, options);
}

class Speculation : public testing::TestWithParam<Precision> {};
INSTANTIATE_TEST_SUITE_P(Precisions, Speculation, testing::Values(Precision::fp8, Precision::fp32),
                         [](const auto& param) { return name_of(param.param); });

TEST_P(Speculation, GreedyOutputIsThatOfPlainDecoding) {
  const std::vector<Ids> prompts = twenty_prompts();
  ASSERT_EQ(prompts.size(), 20u);
  std::int64_t proposed = 0, accepted = 0, chosen = 0, chosen_accepted = 0;
  const bool fp32 = GetParam() == Precision::fp32;
  for (std::size_t p = 0; p < prompts.size(); p += kSanitized ? (fp32 ? 10 : 5) : 1) {
    SCOPED_TRACE("prompt " + std::to_string(p) + " of " + std::to_string(prompts[p].size()) + " tokens");
    const auto options = [](std::int64_t drafts, bool adaptive) {
      return GenerateOptions{
          .max_tokens = 32, .draft_tokens = drafts, .adaptive_drafts = adaptive, .ignore_eos = true};
    };
    const Generation plain = run(GetParam(), prompts[p], options(0, false), /*threads=*/1);
    ASSERT_EQ(plain.output_ids.size(), 32u);
    EXPECT_EQ(plain.stats.steps, 31);
    const auto fast = [&](std::int64_t drafts, bool adaptive) {
      const Generation got = run(GetParam(), prompts[p], options(drafts, adaptive));
      EXPECT_EQ(got.output_ids, plain.output_ids) << drafts << " drafts, " << adaptive;
      EXPECT_LE(got.stats.drafts_accepted, got.stats.drafts_proposed);
      EXPECT_LE(got.stats.drafts_proposed, drafts * got.stats.steps);
      EXPECT_EQ(got.stats.steps + got.stats.drafts_accepted, 31) << drafts << " drafts, " << adaptive;
      return got.stats;
    };
    for (std::int64_t drafts = 1; drafts <= kMaxDraftTokens; drafts += kSanitized ? 3 : 1) {
      const GenerateStats stats = fast(drafts, /*adaptive=*/false);
      proposed += stats.drafts_proposed;
      accepted += stats.drafts_accepted;
    }
    const GenerateStats stats = fast(kMaxDraftTokens, /*adaptive=*/true);
    chosen += stats.drafts_proposed;
    chosen_accepted += stats.drafts_accepted;
  }
  // Drafts are worth something, and some are refused: both ways of verification were taken.
  EXPECT_GT(accepted, proposed / 4);
  EXPECT_LT(accepted, proposed);
  // Where their number is up to the engine, more are accepted than refused: two of three.
  EXPECT_GT(chosen_accepted, chosen / 2);
}

TEST_P(Speculation, OutputDoesNotDependOnChunksOrThreads) {
  const Ids prompt = golden_prompts()[2].ids;  // 300 tokens
  for (const float temperature : {0.0f, 0.8f}) {
    for (const std::int64_t drafts : {0, 3}) {
      if (kSanitized && (temperature > 0) != (drafts > 0)) continue;
      Ids expected;
      for (const auto& [threads, chunk] : {std::pair{1, 0}, {2, 1}, {2, 7}, {1, 64}}) {
        if (kSanitized && GetParam() == Precision::fp32 && chunk != 0 && chunk != 7) continue;
        const Ids got = run(GetParam(), prompt,
                            {.max_tokens = 16,
                             .sampling = {.temperature = temperature, .top_p = 0.9f, .seed = 7},
                             .draft_tokens = drafts},
                            threads, chunk)
                            .output_ids;
        if (expected.empty()) expected = got;
        EXPECT_EQ(got, expected) << threads << " threads, chunk " << chunk << ", " << drafts << " drafts";
      }
    }
  }
}

/// Probabilities of the two most likely tokens behind `ids`, normalised: what top_k = 2 samples from.
std::map<std::int32_t, double> best_two(const Ids& ids) {
  Session session(tiny_model(Precision::fp8), test_context());
  const std::vector<float> logits = session.logits(ids, 1);
  const std::int32_t first = argmax_of(logits);
  std::int32_t second = first == 0 ? 1 : 0;
  for (std::int32_t v = 0; v < static_cast<std::int32_t>(logits.size()); ++v)
    if (v != first && logits[static_cast<std::size_t>(v)] > logits[static_cast<std::size_t>(second)])
      second = v;
  const double odds = std::exp(static_cast<double>(logits[static_cast<std::size_t>(second)]) -
                               static_cast<double>(logits[static_cast<std::size_t>(first)]));
  return {{first, 1 / (1 + odds)}, {second, odds / (1 + odds)}};
}

// Three tokens with top_k = 2 have 8 outcomes, whose probabilities the target model gives exactly. The last
// two come out of verification, behind chains of one draft or, where the layer is sure of it, of two.
TEST(SampledSpeculation, FollowsTheTargetDistributionOnThreePrompts) {
  constexpr int kDraws = kSanitized ? 50 : 800;
  const Ids held_out = golden_perplexity_ids();
  int chains_of_one = 0, chains_of_two = 0;
  for (const std::size_t begin : {512u, 2048u, 3456u}) {
    const Ids prompt(held_out.begin() + static_cast<std::ptrdiff_t>(begin),
                     held_out.begin() + static_cast<std::ptrdiff_t>(begin) + 12);
    SCOPED_TRACE(begin);
    std::map<Ids, double> expected;
    for (const auto& [a, pa] : best_two(prompt)) {
      Ids one = prompt;
      one.push_back(a);
      for (const auto& [b, pb] : best_two(one)) {
        Ids two = one;
        two.push_back(b);
        for (const auto& [c, pc] : best_two(two)) expected[{a, b, c}] = pa * pb * pc;
      }
    }
    ASSERT_EQ(expected.size(), 8u);
    std::map<Ids, int> counts;
    Session session(tiny_model(Precision::fp8), test_context());
    std::int64_t accepted = 0, proposed = 0;
    for (int draw = 0; draw < kDraws; ++draw) {
      const Generation result = session.generate(
          prompt,
          {.max_tokens = 3,
           .sampling = {.temperature = 1, .top_k = 2, .seed = begin + static_cast<std::uint64_t>(draw)},
           .draft_tokens = 2,
           .ignore_eos = true});
      ASSERT_TRUE(expected.count(result.output_ids));
      ++counts[result.output_ids];
      if (result.stats.steps == 1) ++(result.stats.drafts_proposed == 1 ? chains_of_one : chains_of_two);
      accepted += result.stats.drafts_accepted;
      proposed += result.stats.drafts_proposed;
    }
    EXPECT_GT(accepted, 0);
    EXPECT_LT(accepted, proposed);
    if (kSanitized) continue;  // too few for what follows
    double chi_square = 0;
    for (const auto& [ids, probability] : expected) {
      const double mean = probability * kDraws;
      chi_square += (counts[ids] - mean) * (counts[ids] - mean) / mean;
    }
    EXPECT_LT(chi_square, 24.3);  // 7 degrees of freedom, p = 0.001
  }
  EXPECT_GT(chains_of_one, 0);
  EXPECT_GT(chains_of_two, 0);  // else where chains end does not matter here
}

// A seed's text is the beginning of its longer text: what a step draws does not depend on how many tokens may
// still follow.
TEST(SampledSpeculation, AShorterTextIsThePrefixOfALonger) {
  const Ids prompt = golden_prompts()[0].ids;
  Session session(tiny_model(Precision::fp8), test_context(1));
  for (const auto& [drafts, adaptive] : {std::pair(3, true), {7, true}, {7, false}}) {
    const auto text = [&, d = drafts, a = adaptive](std::int64_t tokens) {
      return session
          .generate(prompt, {.max_tokens = tokens,
                             .sampling = {.temperature = 1, .seed = 11},
                             .draft_tokens = d,
                             .adaptive_drafts = a,
                             .ignore_eos = true})
          .output_ids;
    };
    constexpr std::int64_t kMost = kSanitized ? 8 : 24;
    const Ids whole = text(kMost);
    for (std::int64_t tokens = 1; tokens < kMost; ++tokens)
      EXPECT_EQ(text(tokens), Ids(whole.begin(), whole.begin() + tokens)) << drafts << " drafts";
  }
}

TEST(Sampler, CoinsAreUniformAndIndependentOfOneAnother) {
  constexpr int kCoins = 100000, kBins = 16;
  std::vector<int> pairs(kBins * kBins);
  for (int i = 0; i < kCoins; ++i) {
    const float a = Sampler::coin(3, i, 0), b = Sampler::coin(3, i, 1);
    ASSERT_TRUE(a >= 0 && a < 1 && b >= 0 && b < 1);
    ++pairs[static_cast<std::size_t>(a * kBins) * kBins + static_cast<std::size_t>(b * kBins)];
  }
  double chi_square = 0;
  const double mean = static_cast<double>(kCoins) / (kBins * kBins);
  for (const int count : pairs) chi_square += (count - mean) * (count - mean) / mean;
  EXPECT_LT(chi_square, 330.5);  // 255 degrees of freedom, p = 0.001
  EXPECT_GT(chi_square, 187);    // and not too even either
  EXPECT_NE(Sampler::coin(1, 5, 0), Sampler::coin(2, 5, 0));
}

TEST(Generate, StopsTokenByToken) {
  const Ids prompt = golden_prompts()[0].ids;
  Session session(tiny_model(Precision::fp8), test_context());
  for (const std::int64_t drafts : {0, 3, 7}) {
    // Never more tokens than asked for, however many drafts a step accepts.
    for (std::int64_t most = 1; most <= 12; ++most) {
      std::int64_t called = 0;
      const Generation result = session.generate(
          prompt, {.max_tokens = most, .draft_tokens = drafts, .on_token = [&](std::int32_t) { ++called; }});
      EXPECT_EQ(static_cast<std::int64_t>(result.output_ids.size()), most);
      EXPECT_EQ(called, most);
      EXPECT_EQ(result.finish_reason, FinishReason::length);
    }
    // Cancelled by its own fifth token: a step that was under way may still finish.
    std::atomic<bool> cancel = false;
    int tokens = 0;
    const Generation cancelled =
        session.generate(prompt, {.max_tokens = 500,
                                  .draft_tokens = drafts,
                                  .on_token = [&](std::int32_t) { cancel = ++tokens == 5 || cancel; },
                                  .cancel = &cancel});
    EXPECT_EQ(cancelled.finish_reason, FinishReason::cancelled);
    EXPECT_GE(cancelled.output_ids.size(), 5u);
    EXPECT_LE(cancelled.output_ids.size(), 5u + 7u);
  }
}

TEST(Generate, CancelledBeforePrefillGivesNothing) {
  const std::atomic<bool> cancel = true;
  const Generation result = run(Precision::fp8, golden_prompts()[0].ids, {.cancel = &cancel});
  EXPECT_TRUE(result.output_ids.empty());
  EXPECT_EQ(result.finish_reason, FinishReason::cancelled);
}

TEST(Generate, RejectsBadArguments) {
  Session session(tiny_model(Precision::fp8), test_context());
  const Ids ids = {0, 5, 9};
  EXPECT_ERROR(InvalidArgument, "generate: the prompt is empty", session.generate({}, {}));
  EXPECT_ERROR(InvalidArgument,
               "generate: the prompt has 4097 tokens, the model's max_position_embeddings is 4096",
               session.generate(Ids(4097, 5), {}));
  EXPECT_ERROR(InvalidArgument, "generate: token 4096 at position 1 is not in the vocabulary, 0 to 4095",
               session.generate(Ids{3, 4096}, {}));
  EXPECT_ERROR(InvalidArgument, "generate: token -1 at position 0", session.generate(Ids{-1}, {}));
  EXPECT_ERROR(InvalidArgument, "generate: 'max_tokens' must be at least 1, got 0",
               session.generate(ids, {.max_tokens = 0}));
  EXPECT_ERROR(InvalidArgument, "generate: 'draft_tokens' must be from 0 to 7, got 8",
               session.generate(ids, {.draft_tokens = 8}));
  EXPECT_ERROR(InvalidArgument, "sampling: 'temperature' must be from 0 to 1e6, got nan",
               session.generate(ids, {.sampling = {.temperature = NAN}}));
  EXPECT_ERROR(InvalidArgument, "sampling: 'top_p' must be above 0 and at most 1, got 0",
               session.generate(ids, {.sampling = {.top_p = 0}}));
  EXPECT_ERROR(InvalidArgument, "logits: 'last' must be from 1 to the 3 tokens of the prompt, got 4",
               session.logits(ids, 4));
  EXPECT_ERROR(InvalidArgument, "logits: the prompt is empty", session.logits({}, 1));
  EXPECT_ERROR(InvalidArgument, "perplexity: 'window' must be from 2 to max_position_embeddings, 4096, got 1",
               session.perplexity(ids, 1));
  EXPECT_ERROR(InvalidArgument, "perplexity: needs at least 2 tokens, got 1", session.perplexity(Ids{3}, 8));
  EXPECT_ERROR(InvalidArgument, "session: 'prefill_chunk' must be at least 0, got -1",
               Session(tiny_model(Precision::fp8), test_context(), {.prefill_chunk = -1}));
}

}  // namespace
}  // namespace fathom
