// The distribution sample and verify_drafts draw from: the plain form, and the checks both share.
#include "ops/sampling.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>

namespace fathom {

void check_sampling_params(const Expect& expect, const SamplingParams& params) {
  if (!std::isfinite(params.temperature) || params.temperature < 0) {
    expect.fail("temperature", "be at least 0", std::to_string(params.temperature));
  }
  expect.at_least("top_k", params.top_k, 0);
  if (!(params.top_p > 0 && params.top_p <= 1)) {
    expect.fail("top_p", "be in (0,1]", std::to_string(params.top_p));
  }
}

void check_coins(const Expect& expect, const TensorView& coins, std::initializer_list<std::int64_t> shape) {
  expect.tensor("coins", coins, {DType::f32}, shape);
  const std::int64_t width = coins.size(coins.rank - 1);
  for (std::int64_t i = 0; i < coins.count(); ++i) {
    const std::int64_t index =
        coins.rank == 2 ? i / width * coins.step(0) + i % width * coins.step(1) : i * coins.step(0);
    const float coin = coins.as<float>()[index];
    if (!(coin >= 0 && coin < 1)) expect.fail("coins", "be in [0,1)", std::to_string(coin));
  }
}

bool cuts(const SamplingParams& params, std::int64_t vocab) {
  return params.top_p < 1 || (params.top_k > 0 && params.top_k < vocab);
}

void fail_without_logit(const Expect& expect, std::int64_t row) {
  expect.fail("logits", "have a value above -inf in every row", "none in row " + std::to_string(row));
}

std::int64_t argmax_ref(const Expect& expect, const float* logits, std::int64_t vocab, std::int64_t row) {
  std::int64_t best = -1;
  float value = -std::numeric_limits<float>::infinity();
  for (std::int64_t v = 0; v < vocab; ++v) {
    if (logits[v] > value) {
      value = logits[v];
      best = v;
    }
  }
  if (best < 0) fail_without_logit(expect, row);
  return best;
}

std::vector<double> distribution_ref(const Expect& expect, const float* logits, std::int64_t vocab,
                                     const SamplingParams& params, std::int64_t row) {
  const double largest = logits[argmax_ref(expect, logits, vocab, row)];
  std::vector<double> p(static_cast<std::size_t>(vocab));
  for (std::int64_t v = 0; v < vocab; ++v) {
    const double logit = logits[v];
    // Apart from largest itself, which may be +inf.
    p[static_cast<std::size_t>(v)] = logit == largest    ? 1
                                     : std::isnan(logit) ? 0
                                                         : std::exp((logit - largest) / params.temperature);
  }
  if (cuts(params, vocab)) {
    std::vector<std::size_t> order(p.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return p[a] > p[b]; });
    const auto top_k = params.top_k > 0 ? std::min(params.top_k, vocab) : vocab;
    double sum = 0;
    for (std::int64_t i = 0; i < top_k; ++i) sum += p[order[static_cast<std::size_t>(i)]];
    double reached = 0;
    for (std::int64_t i = 0; i < vocab; ++i) {
      double& value = p[order[static_cast<std::size_t>(i)]];
      const bool keep = i < top_k && (params.top_p >= 1 || reached < static_cast<double>(params.top_p) * sum);
      reached += value;
      if (!keep) value = 0;
    }
  }
  const double sum = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& value : p) value /= sum;
  return p;
}

std::int64_t draw_ref(const std::vector<double>& p, float coin) {
  const double threshold = static_cast<double>(coin) * std::accumulate(p.begin(), p.end(), 0.0);
  double reached = 0;
  std::int64_t last = 0;
  for (std::size_t v = 0; v < p.size(); ++v) {
    if (p[v] <= 0) continue;
    last = static_cast<std::int64_t>(v);
    reached += p[v];
    if (reached > threshold) return last;
  }
  return last;  // rounding left the running sum below the threshold
}

}  // namespace fathom
