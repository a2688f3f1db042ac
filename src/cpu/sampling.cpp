// Compiled once for every vector target; see cpu/simd.hpp.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/sampling.cpp"
#include <hwy/foreach_target.h>
// must follow foreach_target.h
#include <algorithm>
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

// weights[i] = exp((logits[i] - largest) / temperature), 1 for the largest and 0 for NaN and what is tiny.
// `count` counts are a multiple of the vector but for the end, where lanes beyond the row are written as
// zeros. Returns their sum: lanes first, then across lanes.
double Weigh(const float* logits, std::int64_t count, float largest, float temperature, float* weights) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto most = hn::Set(d, largest);
  const auto heat = hn::Set(d, temperature);
  const auto one = hn::Set(d, 1.0f);
  auto sum = hn::Zero(d);
  for (std::int64_t i = 0; i < count; i += lanes) {
    const auto logit = LoadFloats(d, logits, DType::f32, i, count - i);
    const auto inside = hn::FirstN(d, static_cast<std::size_t>(std::min(lanes, count - i)));
    const auto power = hn::Div(hn::Sub(logit, most), heat);
    // False for NaN, which is what +inf - +inf gives, too.
    const auto counts = hn::Ge(power, hn::Set(d, ExpConstants::kLeast));
    auto weight = hn::IfThenElseZero(counts, ExpForSigmoid(d, power));
    weight = hn::IfThenElse(hn::Eq(logit, most), one, weight);
    weight = hn::IfThenElseZero(inside, weight);
    hn::StoreU(weight, d, weights + i);
    sum = hn::Add(sum, weight);
  }
  return static_cast<double>(hn::GetLane(hn::SumOfLanes(d, sum)));
}

}  // namespace fathom::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fathom::cpu {
namespace {
HWY_EXPORT(LargestValue);
HWY_EXPORT(FirstEqual);
HWY_EXPORT(Weigh);

constexpr std::int64_t kBlock = 512;
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
  const std::int64_t blocks = (vocab + kBlock - 1) / kBlock;
  weights_.resize(static_cast<std::size_t>(blocks * kBlock));
  block_sums_.resize(static_cast<std::size_t>(blocks));
  const auto weigh = HWY_DYNAMIC_DISPATCH(Weigh);
  total_ = 0;
  for (std::int64_t b = 0; b < blocks; ++b) {
    const std::int64_t begin = b * kBlock;
    const std::int64_t count = std::min(kBlock, vocab - begin);
    double& sum = block_sums_[static_cast<std::size_t>(b)];
    sum = weigh(logits + begin, count, largest, params.temperature, weights_.data() + begin);
    total_ += sum;
  }
  filtered_ = cuts(params, vocab);
  if (filtered_) cut(params);
  return true;
}

// Keeps what top_k and then top_p leave.
void TokenDistribution::cut(const SamplingParams& params) {
  const auto better = [](const auto& a, const auto& b) {
    return a.second > b.second || (a.second == b.second && a.first < b.first);
  };
  const auto top_k = static_cast<std::size_t>(params.top_k > 0 ? std::min(params.top_k, vocab_) : vocab_);
  // All tokens lighter than `least` weigh less together than what top_p leaves out, so they are out.
  const bool only_top_p = static_cast<std::int64_t>(top_k) == vocab_;
  const double left_out = (1 - static_cast<double>(params.top_p)) * total_ * 0.99;
  const float least = only_top_p ? static_cast<float>(left_out / static_cast<double>(vocab_)) : 0.0f;
  ranked_.clear();
  for (std::int64_t v = 0; v < vocab_; ++v) {
    const float weight = weights_[static_cast<std::size_t>(v)];
    if (weight > 0 && weight >= least) ranked_.emplace_back(static_cast<std::int32_t>(v), weight);
  }
  double total = total_;
  if (ranked_.size() > top_k) {
    const auto end = ranked_.begin() + static_cast<std::ptrdiff_t>(top_k);
    std::nth_element(ranked_.begin(), end - 1, ranked_.end(), better);
    ranked_.erase(end, ranked_.end());
  }
  std::sort(ranked_.begin(), ranked_.end(), better);
  if (!only_top_p) {
    total = 0;
    for (const auto& entry : ranked_) total += static_cast<double>(entry.second);
  }
  double reached = 0;
  std::size_t count = 0;
  while (count < ranked_.size() &&
         (params.top_p >= 1 || reached < static_cast<double>(params.top_p) * total)) {
    reached += static_cast<double>(ranked_[count++].second);
  }
  ranked_.resize(count);
  kept_ = ranked_;
  std::sort(kept_.begin(), kept_.end());
  total_ = 0;
  for (const auto& entry : kept_) total_ += static_cast<double>(entry.second);
}

double TokenDistribution::share(std::int64_t token) const {
  if (!filtered_) return static_cast<double>(weights_[static_cast<std::size_t>(token)]) / total_;
  const auto entry = std::lower_bound(kept_.begin(), kept_.end(), token,
                                      [](const auto& e, std::int64_t t) { return e.first < t; });
  return entry != kept_.end() && entry->first == token ? static_cast<double>(entry->second) / total_ : 0.0;
}

void TokenDistribution::remove(std::int64_t token) {
  if (!filtered_) {
    weights_[static_cast<std::size_t>(token)] = 0;
    const std::int64_t block = token / kBlock;
    const auto begin = weights_.begin() + block * kBlock;
    const auto end = weights_.begin() + std::min(vocab_, (block + 1) * kBlock);
    block_sums_[static_cast<std::size_t>(block)] = std::accumulate(begin, end, 0.0);
    total_ = std::accumulate(block_sums_.begin(), block_sums_.end(), 0.0);
    return;
  }
  std::erase_if(kept_, [&](const auto& entry) { return entry.first == token; });
  total_ = 0;
  for (const auto& entry : kept_) total_ += static_cast<double>(entry.second);
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
    const double after = reached + block_sums_[b];
    const bool here = after > threshold;
    // Only the block in which the sum crosses the threshold is walked, and the last one that has any weight.
    if (here || block_sums_[b] > 0) last = static_cast<std::int64_t>(b);
    if (here) break;
    reached = after;
  }
  const std::int64_t begin = last * kBlock;
  for (std::int64_t v = begin; v < std::min(vocab_, begin + kBlock); ++v) {
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
