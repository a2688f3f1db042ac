// Tests of verify_drafts.
#include "fathom/ops/verify_drafts.hpp"

#include <algorithm>
#include <array>
#include <cmath>

#include "ops/chi_square.hpp"
#include "ops/op_test.hpp"
#include "ops/verify_drafts/verify_drafts_impl.hpp"

namespace fathom {
namespace {

TEST(VerifyDrafts, GreedyFollowsTheLargestLogits) {
  // Rows choose 2, 0, 1.
  const Tensor row = tensor_of<float>(DType::f32, {1, 3, 3}, {0, 1, 2, 3, 0, 1, 0, 5, 5});
  for (const auto& [first, second, count, next] :
       {std::tuple(2, 0, 2, 1), std::tuple(2, 1, 1, 0), std::tuple(0, 0, 0, 2), std::tuple(-1, 0, 0, 2),
        std::tuple(2, -1, 1, 0)}) {
    const Tensor drafts = tensor_of<int>(DType::i32, {1, 2}, {first, second});
    Tensor accepted = poisoned(DType::i32, {1});
    Tensor next_token = poisoned(DType::i32, {1});
    verify_drafts({.logits = row, .drafts = drafts, .accepted = accepted, .next_token = next_token},
                  test_context());
    EXPECT_EQ(accepted[0], count);
    EXPECT_EQ(next_token[0], next);
  }
}

TEST(VerifyDrafts, WithoutDraftsItIsSample) {
  Random random(4);
  const Tensor logits = random.normal(DType::f32, {50, 1, 500}, 2);
  const Tensor coins = random.uniform(DType::f32, {50, 1}, 0, 1 - 0x1p-24);
  for (const SamplingParams& params : {SamplingParams{}, SamplingParams{.temperature = 1},
                                       SamplingParams{.temperature = 0.9f, .top_k = 40, .top_p = 0.9f}}) {
    Tensor accepted = poisoned(DType::i32, {50});
    Tensor next_token = poisoned(DType::i32, {50});
    Tensor sampled = poisoned(DType::i32, {50});
    verify_drafts({.logits = logits,
                   .drafts = Tensor(DType::i32, {50, 0}),
                   .params = params,
                   .coins = coins,
                   .accepted = accepted,
                   .next_token = next_token},
                  test_context());
    sample({.logits = TensorView::contiguous(logits.view().data, DType::f32, {50, 500}),
            .params = params,
            .coins = TensorView::contiguous(coins.view().data, DType::f32, {50}),
            .tokens = sampled},
           test_context());
    expect_same_bytes(next_token, sampled);
    for (std::int64_t b = 0; b < 50; ++b) EXPECT_EQ(accepted[b], 0);
  }
}

// A target model over six tokens that looks at the last token only: logits[last][next]; its distribution
// under the sampling parameters, each row by hand.
constexpr std::size_t kVocab = 6;
using Chain = std::array<std::array<float, kVocab>, kVocab>;

std::array<double, kVocab> promised(const std::array<float, kVocab>& logits, const SamplingParams& params) {
  std::vector<std::pair<double, std::size_t>> ranked;
  for (std::size_t v = 0; v < kVocab; ++v) {
    ranked.emplace_back(-std::exp(static_cast<double>(logits[v] / params.temperature)), v);
  }
  std::sort(ranked.begin(), ranked.end());
  if (params.top_k > 0) ranked.resize(static_cast<std::size_t>(params.top_k));
  double sum = 0;
  for (const auto& entry : ranked) sum -= entry.first;
  double reached = 0;
  std::array<double, kVocab> p{};
  for (const auto& [weight, token] : ranked) {
    if (reached >= static_cast<double>(params.top_p) * sum && params.top_p < 1) break;
    reached -= weight;
    p[token] = -weight;
  }
  for (double& value : p) value /= reached;
  return p;
}

// What 1e5 chains of three tokens, made by verification of two drafts, are distributed like: the target's
// p(a | 0) p(b | a) p(c | b) exactly, however good or bad the drafts are.
void check_chain(const SamplingParams& params, bool likely_drafts) {
  constexpr std::int64_t kDraws = 100'000;
  Random random(likely_drafts ? 11 : 12);
  Chain chain;
  std::array<std::array<double, kVocab>, kVocab> p;
  std::array<std::size_t, kVocab> likeliest{};
  for (std::size_t last = 0; last < kVocab; ++last) {
    for (float& logit : chain[last])
      logit = static_cast<float>(static_cast<double>(random.integer(-24, 24)) / 12);
    p[last] = promised(chain[last], params);
    likeliest[last] =
        static_cast<std::size_t>(std::max_element(p[last].begin(), p[last].end()) - p[last].begin());
  }
  const Tensor logits(DType::f32, {kDraws, 3, kVocab});
  const Tensor drafts(DType::i32, {kDraws, 2});
  for (std::int64_t b = 0; b < kDraws; ++b) {
    std::size_t last = 0;
    for (std::int64_t i = 0; i < 3; ++i) {
      std::copy(chain[last].begin(), chain[last].end(),
                logits.as<float>() + (b * 3 + i) * std::int64_t{kVocab});
      last = likely_drafts ? likeliest[last] : static_cast<std::size_t>(random.integer(0, kVocab - 1));
      if (i < 2) drafts.as<std::int32_t>()[b * 2 + i] = static_cast<std::int32_t>(last);
    }
  }
  const Tensor coins = random.uniform(DType::f32, {kDraws, 3}, 0, 1 - 0x1p-24);
  Tensor accepted = poisoned(DType::i32, {kDraws});
  Tensor next_token = poisoned(DType::i32, {kDraws});
  verify_drafts({.logits = logits,
                 .drafts = drafts,
                 .params = params,
                 .coins = coins,
                 .accepted = accepted,
                 .next_token = next_token},
                test_context());
  std::vector<double> counts(kVocab * kVocab * kVocab);
  std::vector<double> expected(counts.size());
  std::uniform_real_distribution<double> uniform(0, 1);
  for (std::int64_t b = 0; b < kDraws; ++b) {
    const auto count = static_cast<std::int64_t>(accepted[b]);
    ASSERT_GE(count, 0);
    ASSERT_LE(count, 2);
    std::size_t cell = 0;
    std::size_t last = 0;
    for (std::int64_t i = 0; i < 3; ++i) {
      if (i < count) {
        last = static_cast<std::size_t>(drafts[b * 2 + i]);
      } else if (i == count) {
        last = static_cast<std::size_t>(next_token[b]);
      } else {  // the chain goes on without drafts
        double coin = uniform(random.engine());
        std::size_t v = 0;
        while (v + 1 < kVocab && coin >= p[last][v]) coin -= p[last][v++];
        last = v;
      }
      cell = cell * kVocab + last;
    }
    ++counts.at(cell);
  }
  for (std::size_t cell = 0; cell < counts.size(); ++cell) {
    const std::size_t a = cell / kVocab / kVocab;
    const std::size_t b = cell / kVocab % kVocab;
    expected[cell] = p[0][a] * p[a][b] * p[b][cell % kVocab];
  }
  expect_follows(counts, expected);
}

TEST(VerifyDrafts, SampledOutputFollowsTheTarget) {
  for (const bool likely : {true, false}) {
    for (const SamplingParams& params :
         {SamplingParams{.temperature = 1}, SamplingParams{.temperature = 0.6f, .top_k = 4},
          SamplingParams{.temperature = 1.4f, .top_p = 0.75f},
          SamplingParams{.temperature = 1, .top_k = 5, .top_p = 0.9f}}) {
      SCOPED_TRACE(testing::Message()
                   << likely << params.temperature << " " << params.top_k << " " << params.top_p);
      check_chain(params, likely);
    }
  }
}

TEST(VerifyDrafts, AgreesWithReference) {
  constexpr std::int64_t kBatch = 64;
  for (const std::int64_t vocab : {3, 700, 4096}) {
    for (const SamplingParams& params : {SamplingParams{}, SamplingParams{.temperature = 0.7f},
                                         SamplingParams{.temperature = 1, .top_k = 20, .top_p = 0.9f},
                                         SamplingParams{.temperature = 2, .top_p = 0.5f}}) {
      Random random(vocab);
      const Tensor logits = random.normal(DType::f32, {kBatch, 4, vocab}, 3);
      Tensor drafts(DType::i32, {kBatch, 3});
      for (std::int64_t i = 0; i < drafts.count(); ++i) {  // mostly the likeliest
        const float* row = logits.as<float>() + (i / 3 * 4 + i % 3) * vocab;
        drafts.set(i, random.integer(0, 3) > 0 ? static_cast<double>(std::max_element(row, row + vocab) - row)
                                               : static_cast<double>(random.integer(-1, vocab - 1)));
      }
      const Tensor coins = random.uniform(DType::f32, {kBatch, 4}, 0, 1 - 0x1p-24);
      Tensor got = poisoned(DType::i32, {2, kBatch});
      Tensor expected = poisoned(DType::i32, {2, kBatch});
      for (const auto& [to, context] :
           {std::pair(&got, &test_context()), {&expected, &forced_context("ref:any")}}) {
        verify_drafts(
            {.logits = logits,
             .drafts = drafts,
             .params = params,
             .coins = coins,
             .accepted = TensorView::contiguous(to->as<std::int32_t>(), DType::i32, {kBatch}),
             .next_token = TensorView::contiguous(to->as<std::int32_t>() + kBatch, DType::i32, {kBatch})},
            *context);
      }
      // Where a coin falls on a border, rounding decides; that is rare.
      int different = 0;
      for (std::int64_t b = 0; b < kBatch; ++b) {
        different += got[b] != expected[b] || got[kBatch + b] != expected[kBatch + b] ? 1 : 0;
      }
      EXPECT_LE(different, params.temperature == 0 ? 0 : 1);
    }
  }
}

TEST(VerifyDrafts, ARefusedDraftIsNeverDrawnAndACertainOneNeverRefused) {
  const Tensor coins = tensor_of<float>(DType::f32, {2, 2}, {1 - 0x1p-24, 1 - 0x1p-24, 0, 0});
  const Tensor drafts = tensor_of<int>(DType::i32, {2, 1}, {1, 0});
  // p = (0, 1, 0) in both rows of the first chain; the second chain's draft has probability 0.
  const Tensor logits =
      tensor_of<float>(DType::f32, {2, 2, 3}, {-1e9, 9, -1e9, 0, 0, 0, -1e9, 9, -1e9, 0, 0, 0});
  Tensor accepted = poisoned(DType::i32, {2});
  Tensor next_token = poisoned(DType::i32, {2});
  verify_drafts({.logits = logits,
                 .drafts = drafts,
                 .params = {.temperature = 1},
                 .coins = coins,
                 .accepted = accepted,
                 .next_token = next_token},
                test_context());
  expect_same_bytes(accepted, tensor_of<int>(DType::i32, {2}, {1, 0}));
  expect_same_bytes(next_token, tensor_of<int>(DType::i32, {2}, {2, 1}));
}

TEST(VerifyDrafts, ChainsDoNotDependOnOneAnother) {
  constexpr std::int64_t kBatch = 17;
  Random random(5);
  const Tensor logits = random.normal(DType::f32, {kBatch, 4, 1000}, 1);
  const Tensor coins = random.uniform(DType::f32, {kBatch, 4}, 0, 0.01);
  Tensor drafts(DType::i32, {kBatch, 3});
  for (std::int64_t i = 0; i < drafts.count(); ++i)
    drafts.set(i, static_cast<double>(random.integer(0, 999)));
  Tensor together = poisoned(DType::i32, {2, kBatch});
  Tensor alone = poisoned(DType::i32, {2, kBatch});
  const SamplingParams params{.temperature = 1, .top_k = 600};
  const auto column = [](const Tensor& t, std::int64_t row, std::int64_t begin, std::int64_t end) {
    return TensorView::contiguous(t.as<std::int32_t>() + row * kBatch + begin, DType::i32, {end - begin});
  };
  const auto run = [&](const Tensor& to, std::int64_t begin, std::int64_t end, int threads) {
    verify_drafts({.logits = logits.view().rows(begin, end),
                   .drafts = drafts.view().rows(begin, end),
                   .params = params,
                   .coins = coins.view().rows(begin, end),
                   .accepted = column(to, 0, begin, end),
                   .next_token = column(to, 1, begin, end)},
                  test_context(threads));
  };
  run(together, 0, kBatch, 2);
  for (std::int64_t b = 0; b < kBatch; ++b) run(alone, b, b + 1, 1);
  expect_same_bytes(together, alone);
}

TEST(VerifyDrafts, RejectsBadArguments) {
  const Tensor logits = tensor_of<float>(DType::f32, {1, 2, 2}, {0, 1, 2, 3});
  const Tensor drafts = tensor_of<int>(DType::i32, {1, 1}, {2});
  Tensor result = poisoned(DType::i32, {1});
  EXPECT_ERROR(InvalidArgument, "verify_drafts: 'drafts' must be in [-1,2), got 2 at draft 0 of row 0",
               verify_drafts({.logits = logits, .drafts = drafts, .accepted = result, .next_token = result},
                             test_context()));
  EXPECT_ERROR(InvalidArgument, "verify_drafts: 'drafts' must have shape [1,1], got [1,2]",
               verify_drafts({.logits = logits,
                              .drafts = poisoned(DType::i32, {1, 2}),
                              .accepted = result,
                              .next_token = result},
                             test_context()));
  const Tensor one = tensor_of<int>(DType::i32, {1, 1}, {1});
  EXPECT_ERROR(InvalidArgument, "verify_drafts: 'coins' must have shape [1,2], got [1,1]",
               verify_drafts({.logits = logits,
                              .drafts = one,
                              .params = {.temperature = 1},
                              .coins = poisoned(DType::f32, {1, 1}),
                              .accepted = result,
                              .next_token = result},
                             test_context()));
}

}  // namespace
}  // namespace fathom
