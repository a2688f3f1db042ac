// Tests of sample.
#include "fathom/ops/sample.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/chi_square.hpp"
#include "ops/op_test.hpp"
#include "ops/sample/sample_impl.hpp"

namespace fathom {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// The distribution sample() promises, from its contract.
std::vector<double> promised(const std::vector<double>& logits, const SamplingParams& params) {
  std::vector<std::pair<double, std::size_t>> ranked;  // (-p, token): sorts by falling p, ties by token
  double sum = 0;
  for (const double logit : logits) sum += std::exp(logit / params.temperature);
  for (std::size_t v = 0; v < logits.size(); ++v) {
    ranked.emplace_back(-std::exp(logits[v] / params.temperature) / sum, v);
  }
  std::sort(ranked.begin(), ranked.end());
  if (params.top_k > 0 && params.top_k < static_cast<std::int64_t>(ranked.size())) {
    ranked.resize(static_cast<std::size_t>(params.top_k));
  }
  double kept = 0;
  for (const auto& [p, token] : ranked) kept -= p;
  double reached = 0;
  std::vector<double> result(logits.size());
  double total = 0;
  for (const auto& [p, token] : ranked) {
    if (params.top_p < 1 && reached >= static_cast<double>(params.top_p) * kept) break;
    reached -= p;
    result[token] = -p;
    total -= p;
  }
  for (double& p : result) p /= total;
  return result;
}

TEST(Sample, GreedyTakesTheFirstOfTheLargest) {
  const Tensor logits =
      tensor_of<float>(DType::f32, {4, 4},
                       {1, 5, 5, 2, -9, -8, -7, -7, kNan, 1, kNan, 0, -kInfinity, -kInfinity, kInfinity, 9});
  Tensor tokens = poisoned(DType::i32, {4});
  sample({.logits = logits, .tokens = tokens}, test_context());
  expect_same_bytes(tokens, tensor_of<int>(DType::i32, {4}, {1, 2, 1, 2}));
}

TEST(Sample, GreedyFindsTheLargestAnywhere) {
  for (const std::int64_t vocab : {1, 15, 16, 17, 255, 4096, 4099}) {
    Random random(vocab);
    const Tensor logits = random.normal(DType::f32, {1, vocab}, 3);
    for (const std::int64_t place : {std::int64_t{0}, vocab / 2, vocab - 1}) {
      logits.as<float>()[place] = 100;
      Tensor tokens = poisoned(DType::i32, {1});
      sample({.logits = logits, .tokens = tokens}, test_context());
      EXPECT_EQ(tokens[0], static_cast<double>(place));
      logits.as<float>()[place] = kNan;  // and is not found there again
    }
  }
}

TEST(Sample, FollowsTheDistribution) {
  constexpr std::int64_t kDraws = 100'000;
  constexpr std::int64_t kVocab = 40;
  Random random(1);
  std::vector<double> one(kVocab);
  for (double& logit : one)
    logit = static_cast<float>(static_cast<double>(random.integer(-40, 40)) / 16);  // has ties
  const Tensor logits(DType::f32, {kDraws, kVocab});
  for (std::int64_t i = 0; i < logits.count(); ++i) {
    logits.as<float>()[i] = static_cast<float>(one[static_cast<std::size_t>(i % kVocab)]);
  }
  for (const SamplingParams& params :
       {SamplingParams{.temperature = 1}, SamplingParams{.temperature = 0.5f},
        SamplingParams{.temperature = 2, .top_k = 7}, SamplingParams{.temperature = 1, .top_p = 0.8f},
        SamplingParams{.temperature = 1.3f, .top_k = 12, .top_p = 0.9f},
        SamplingParams{.temperature = 1, .top_k = 1}, SamplingParams{.temperature = 1, .top_p = 1e-6f},
        SamplingParams{.temperature = 1, .top_k = 1000}}) {
    SCOPED_TRACE(testing::Message() << params.temperature << " " << params.top_k << " " << params.top_p);
    const Tensor coins = random.uniform(DType::f32, {kDraws}, 0, 1 - 0x1p-24);
    Tensor tokens = poisoned(DType::i32, {kDraws});
    sample({.logits = logits, .params = params, .coins = coins, .tokens = tokens}, test_context());
    std::vector<double> counts(kVocab);
    for (std::int64_t i = 0; i < kDraws; ++i) ++counts.at(static_cast<std::size_t>(tokens[i]));
    expect_follows(counts, promised(one, params));
  }
}

TEST(Sample, AgreesWithReference) {
  for (const std::int64_t vocab : {1, 7, 129, 4096, 20011}) {
    for (const SamplingParams& params :
         {SamplingParams{.temperature = 0.8f}, SamplingParams{.temperature = 1, .top_k = 50, .top_p = 0.95f},
          SamplingParams{.temperature = 5, .top_p = 0.999f}, SamplingParams{.temperature = 1, .top_k = 3}}) {
      SCOPED_TRACE(testing::Message() << vocab << " " << params.temperature << " " << params.top_p);
      constexpr std::int64_t kRows = 64;
      Random random(vocab);
      const Tensor logits = random.normal(DType::f32, {kRows, vocab}, 4);
      const Tensor coins = random.uniform(DType::f32, {kRows}, 0, 1 - 0x1p-24);
      Tensor got = poisoned(DType::i32, {kRows});
      Tensor expected = poisoned(DType::i32, {kRows});
      sample({.logits = logits, .params = params, .coins = coins, .tokens = got}, test_context());
      sample({.logits = logits, .params = params, .coins = coins, .tokens = expected},
             forced_context("ref:any"));
      // Where the coin falls on the border of two tokens, rounding decides; that is rare.
      int different = 0;
      for (std::int64_t r = 0; r < kRows; ++r) different += got[r] != expected[r] ? 1 : 0;
      EXPECT_LE(different, 1);
    }
  }
}

TEST(Sample, SharesAreThoseOfTheWholeRow) {
  for (const std::int64_t vocab : {1, 7, 129, 4096}) {
    constexpr std::int64_t kRows = 9;
    Random random(vocab);
    const Tensor logits = random.normal(DType::f32, {kRows, vocab}, 3);
    const Tensor coins = random.uniform(DType::f32, {kRows}, 0, 1 - 0x1p-24);
    for (const SamplingParams& params : {SamplingParams{}, SamplingParams{.temperature = 0.7f, .top_k = 3}}) {
      for (const Context& context : {test_context(), forced_context("ref:any")}) {
        Tensor tokens = poisoned(DType::i32, {kRows});
        Tensor shares = poisoned(DType::f32, {kRows});
        sample({.logits = logits, .params = params, .coins = coins, .tokens = tokens, .shares = shares},
               context);
        for (std::int64_t r = 0; r < kRows; ++r) {
          double sum = 0;
          for (std::int64_t v = 0; v < vocab; ++v) sum += std::exp(logits[r * vocab + v]);
          const double expected = std::exp(logits[r * vocab + static_cast<std::int64_t>(tokens[r])]) / sum;
          EXPECT_NEAR(shares[r], expected, 1e-5 * expected) << vocab << ", row " << r;
        }
      }
    }
  }
}

TEST(Sample, ExtremeLogitsAndCoins) {
  const float big = std::numeric_limits<float>::max();
  const Tensor logits = tensor_of<float>(
      DType::f32, {4, 3},
      {kInfinity, 0, kInfinity, -big, big, -kInfinity, kNan, -kInfinity, -5, 1e-40f, 1e-40f, 1e-40f});
  Tensor tokens = poisoned(DType::i32, {4});
  const SamplingParams params{.temperature = 1e-3f};
  const Tensor low = tensor_of<float>(DType::f32, {4}, {0, 0, 0, 0});
  sample({.logits = logits, .params = params, .coins = low, .tokens = tokens}, test_context());
  expect_same_bytes(tokens, tensor_of<int>(DType::i32, {4}, {0, 1, 2, 0}));
  const float last = 1 - 0x1p-24f;
  const Tensor high = tensor_of<float>(DType::f32, {4}, {last, last, last, last});
  sample({.logits = logits, .params = params, .coins = high, .tokens = tokens}, test_context());
  expect_same_bytes(tokens, tensor_of<int>(DType::i32, {4}, {2, 1, 2, 2}));
}

TEST(Sample, RowsDoNotDependOnOneAnother) {
  constexpr std::int64_t kRows = 33;
  Random random(9);
  const Tensor logits = random.normal(DType::f32, {kRows, 3000}, 2);
  const Tensor coins = random.uniform(DType::f32, {kRows}, 0, 1 - 0x1p-24);
  for (const SamplingParams& params : {SamplingParams{}, SamplingParams{.temperature = 1},
                                       SamplingParams{.temperature = 1, .top_p = 0.9f}}) {
    Tensor together = poisoned(DType::i32, {kRows});
    Tensor alone = poisoned(DType::i32, {kRows});
    sample({.logits = logits, .params = params, .coins = coins, .tokens = together}, test_context(2));
    for (std::int64_t r = 0; r < kRows; ++r) {
      sample({.logits = logits.view().rows(r, r + 1),
              .params = params,
              .coins = coins.view().rows(r, r + 1),
              .tokens = alone.view().rows(r, r + 1)},
             test_context(1));
    }
    expect_same_bytes(together, alone);
  }
}

TEST(Sample, RejectsBadArguments) {
  const Tensor logits = tensor_of<float>(DType::f32, {2, 2}, {0, 1, kNan, -kInfinity});
  const Tensor coins = tensor_of<float>(DType::f32, {2}, {0.5f, 1});
  const Tensor fair = tensor_of<float>(DType::f32, {2}, {0.5f, 0.5f});
  Tensor tokens = poisoned(DType::i32, {2});
  const auto run = [&](const SamplingParams& params, const Tensor& c) {
    sample({.logits = logits, .params = params, .coins = c, .tokens = tokens}, test_context());
  };
  EXPECT_ERROR(InvalidArgument,
               "sample: 'logits' must have a value above -inf in every row, got none in row 1",
               run({}, fair));
  EXPECT_ERROR(InvalidArgument,
               "sample: 'logits' must have a value above -inf in every row, got none in row 1",
               run({.temperature = 1, .top_k = 1}, fair));
  EXPECT_ERROR(InvalidArgument, "sample: 'coins' must be in [0,1), got 1.0", run({.temperature = 1}, coins));
  EXPECT_ERROR(InvalidArgument, "sample: 'temperature' must be at least 0, got -1",
               run({.temperature = -1}, fair));
  EXPECT_ERROR(InvalidArgument, "sample: 'temperature' must be at least 0, got nan",
               run({.temperature = kNan}, fair));
  EXPECT_ERROR(InvalidArgument, "sample: 'top_p' must be in (0,1], got 0", run({.top_p = 0}, fair));
  EXPECT_ERROR(InvalidArgument, "sample: 'top_k' must be at least 0, got -1", run({.top_k = -1}, fair));
  EXPECT_ERROR(InvalidArgument, "sample: 'tokens' must have shape [2], got [1]",
               sample({.logits = logits, .tokens = poisoned(DType::i32, {1})}, test_context()));
  EXPECT_ERROR(
      InvalidArgument, "sample: 'shares' must have shape [2], got [3]",
      sample({.logits = logits, .tokens = tokens, .shares = poisoned(DType::f32, {3})}, test_context()));
}

}  // namespace
}  // namespace fathom
