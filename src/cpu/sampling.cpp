// Compiled once for every vector target; see cpu/simd.hpp.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/sampling.cpp"
#include <hwy/foreach_target.h>
// must follow foreach_target.h
#include <algorithm>
#include <functional>
#include <limits>
#include <numeric>

#include "cpu/sampling.hpp"
#include "cpu/silu.hpp"
#include "cpu/simd.hpp"
#include "ops/sampling.hpp"

HWY_BEFORE_NAMESPACE();
namespace fathom::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// The largest value above -inf, or -inf; NaN does not count.
float LargestValue(const float* x, std::int64_t count) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto least = hn::Set(d, -std::numeric_limits<float>::infinity());
  auto best = least;
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto v = hn::LoadU(d, x + i);
    best = hn::IfThenElse(hn::Gt(v, best), v, best);
  }
  float largest = hn::GetLane(hn::MaxOfLanes(d, best));
  for (; i < count; ++i) largest = x[i] > largest ? x[i] : largest;
  return largest;
}

std::int64_t FirstEqual(const float* x, std::int64_t count, float value) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto wanted = hn::Set(d, value);
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const std::int64_t first = hn::FindFirstTrue(d, hn::Eq(hn::LoadU(d, x + i), wanted));
    if (first >= 0) return i + first;
  }
  for (; i < count && x[i] != value; ++i) {
  }
  return i;
}

// weights[i] = exp((logits[i] - largest) / temperature), 1 for the largest and 0 for NaN and what is tiny;
// lanes beyond the row become zeros. sums and bests get the sum and the largest weight of every block.
void Weigh(const float* logits, std::int64_t count, float largest, float temperature, float* weights,
           float* sums, float* bests) {
  const hn::CappedTag<float, cpu::kWeightBlock> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto most = hn::Set(d, largest);
  const auto heat = hn::Set(d, temperature);
  for (std::int64_t begin = 0; begin < count; begin += cpu::kWeightBlock) {
    auto sum = hn::Zero(d);
    auto best = hn::Zero(d);
    for (std::int64_t i = begin; i < std::min(count, begin + cpu::kWeightBlock); i += lanes) {
      const auto logit = LoadFloats(d, logits, DType::f32, i, count - i);
      const auto inside = hn::FirstN(d, static_cast<std::size_t>(std::min(lanes, count - i)));
      const auto power = hn::Div(hn::Sub(logit, most), heat);
      // False for NaN, which is what +inf - +inf gives, too.
      const auto counts = hn::Ge(power, hn::Set(d, ExpConstants::kLeast));
      auto weight = hn::IfThenElseZero(counts, ExpForSigmoid(d, power));
      weight = hn::IfThenElse(hn::Eq(logit, most), hn::Set(d, 1.0f), weight);
      weight = hn::IfThenElseZero(inside, weight);
      hn::StoreU(weight, d, weights + i);
      sum = hn::Add(sum, weight);
      best = hn::Max(best, weight);
    }
    sums[begin / cpu::kWeightBlock] = hn::GetLane(hn::SumOfLanes(d, sum));
    bests[begin / cpu::kWeightBlock] = hn::GetLane(hn::MaxOfLanes(d, best));
  }
}

}  // namespace fathom::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fathom::cpu {
namespace {
HWY_EXPORT(LargestValue);
HWY_EXPORT(FirstEqual);
HWY_EXPORT(Weigh);
}  // namespace

std::int64_t largest_logit(const float* logits, std::int64_t vocab) {
  const float largest = HWY_DYNAMIC_DISPATCH(LargestValue)(logits, vocab);
  if (largest == -std::numeric_limits<float>::infinity()) return -1;
  return HWY_DYNAMIC_DISPATCH(FirstEqual)(logits, vocab, largest);
}

bool TokenDistribution::load(const float* logits, std::int64_t vocab, const SamplingParams& params) {
  const float largest = HWY_DYNAMIC_DISPATCH(LargestValue)(logits, vocab);
  if (largest == -std::numeric_limits<float>::infinity()) return false;
  vocab_ = vocab;
  const auto blocks = static_cast<std::size_t>((vocab + kWeightBlock - 1) / kWeightBlock);
  weights_.resize(blocks * kWeightBlock);
  block_sums_.resize(blocks);
  block_bests_.resize(blocks);
  HWY_DYNAMIC_DISPATCH(Weigh)
  (logits, vocab, largest, params.temperature, weights_.data(), block_sums_.data(), block_bests_.data());
  total_ = std::accumulate(block_sums_.begin(), block_sums_.end(), 0.0);
  filtered_ = cuts(params, vocab);
  if (filtered_) cut(params);
  return true;
}

// A bound below which no token is kept. The tokens lighter than it weigh less together than what top_p leaves
// out; and where top_k blocks have a better one each, it is not among the top_k.
float TokenDistribution::least_weight(const SamplingParams& params, std::int64_t top_k) {
  if (top_k == vocab_) {
    const double left_out = (1 - static_cast<double>(params.top_p)) * total_ * 0.99;
    return static_cast<float>(left_out / static_cast<double>(vocab_));
  }
  if (top_k > static_cast<std::int64_t>(block_bests_.size())) return 0;
  scratch_ = block_bests_;
  const auto place = scratch_.begin() + (top_k - 1);
  std::nth_element(scratch_.begin(), place, scratch_.end(), std::greater<>());
  return *place;
}

void TokenDistribution::total_of_kept() {
  total_ = 0;
  for (const Entry& entry : kept_) total_ += static_cast<double>(entry.second);
}

// Keeps what top_k and then top_p leave.
void TokenDistribution::cut(const SamplingParams& params) {
  const auto better = [](const Entry& a, const Entry& b) {
    return a.second > b.second || (a.second == b.second && a.first < b.first);
  };
  const std::int64_t top_k = params.top_k > 0 ? std::min(params.top_k, vocab_) : vocab_;
  const float least = least_weight(params, top_k);
  kept_.clear();
  for (std::int64_t v = 0; v < vocab_; ++v) {
    if (v % kWeightBlock == 0 && block_bests_[static_cast<std::size_t>(v / kWeightBlock)] < least) {
      v += kWeightBlock - 1;
      continue;
    }
    const float weight = weights_[static_cast<std::size_t>(v)];
    if (weight > 0 && weight >= least) kept_.emplace_back(static_cast<std::int32_t>(v), weight);
  }
  if (static_cast<std::int64_t>(kept_.size()) > top_k) {
    std::nth_element(kept_.begin(), kept_.begin() + (top_k - 1), kept_.end(), better);
    kept_.resize(static_cast<std::size_t>(top_k));
  }
  if (params.top_p < 1) {
    std::sort(kept_.begin(), kept_.end(), better);
    if (top_k < vocab_) total_of_kept();
    const double enough = static_cast<double>(params.top_p) * total_;
    double reached = 0;
    std::size_t count = 0;
    while (count < kept_.size() && reached < enough) reached += static_cast<double>(kept_[count++].second);
    kept_.resize(count);
  }
  std::sort(kept_.begin(), kept_.end());
  total_of_kept();
}

double TokenDistribution::share(std::int64_t token) const {
  if (!filtered_) return static_cast<double>(weights_[static_cast<std::size_t>(token)]) / total_;
  const auto entry = std::lower_bound(kept_.begin(), kept_.end(), token,
                                      [](const Entry& e, std::int64_t t) { return e.first < t; });
  return entry != kept_.end() && entry->first == token ? static_cast<double>(entry->second) / total_ : 0.0;
}

void TokenDistribution::remove(std::int64_t token) {
  if (!filtered_) {
    weights_[static_cast<std::size_t>(token)] = 0;
    const std::int64_t block = token / kWeightBlock;
    const auto begin = weights_.begin() + block * kWeightBlock;
    const auto end = weights_.begin() + std::min(vocab_, (block + 1) * kWeightBlock);
    block_sums_[static_cast<std::size_t>(block)] = std::accumulate(begin, end, 0.0f);
    total_ = std::accumulate(block_sums_.begin(), block_sums_.end(), 0.0);
    return;
  }
  std::erase_if(kept_, [&](const Entry& entry) { return entry.first == token; });
  total_of_kept();
}

std::int64_t TokenDistribution::draw(float coin) const {
  const double threshold = static_cast<double>(coin) * total_;
  double reached = 0;
  std::int64_t last = 0;  // where rounding leaves the sum below the threshold
  if (filtered_) {
    for (const auto& [token, weight] : kept_) {
      last = token;
      reached += static_cast<double>(weight);
      if (reached > threshold) break;
    }
    return last;
  }
  for (std::size_t b = 0; b < block_sums_.size(); ++b) {
    const double after = reached + static_cast<double>(block_sums_[b]);
    const bool here = after > threshold;
    // Only the block in which the sum crosses the threshold is walked, and the last one that has any weight.
    if (here || block_sums_[b] > 0) last = static_cast<std::int64_t>(b);
    if (here) break;
    reached = after;
  }
  const std::int64_t begin = last * kWeightBlock;
  for (std::int64_t v = begin; v < std::min(vocab_, begin + kWeightBlock); ++v) {
    const float weight = weights_[static_cast<std::size_t>(v)];
    if (weight <= 0) continue;
    last = v;
    reached += static_cast<double>(weight);
    if (reached > threshold) break;
  }
  return last;
}

}  // namespace fathom::cpu
#endif
