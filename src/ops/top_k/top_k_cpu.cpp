// Compiled once for every vector target; see src/cpu/simd.hpp.
//
// Finds the k-th largest key of a row, then writes positions in one ascending scan. The k-th largest is found
// by bracketing: a sorted sample gives two pivots that very likely enclose it, one pass counts the keys above
// and keeps those between, and so on until few are left. Correct for any pivots; only the time depends on
// them.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/top_k/top_k_cpu.cpp"
#include <hwy/foreach_target.h>
// must follow foreach_target.h
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "ops/cache_layout.hpp"
#include "ops/top_k/top_k_impl.hpp"

HWY_BEFORE_NAMESPACE();
namespace fathom::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// top_k_key of every lane.
template <class D>
HWY_INLINE hn::Vec<D> Keys(D du, const float* scores) {
  const hn::RebindToFloat<D> d;
  const hn::RebindToSigned<D> di;
  const auto x = hn::LoadU(d, scores);
  const auto bits = hn::BitCast(du, hn::Add(x, hn::Zero(d)));
  const auto negative = hn::BitCast(du, hn::ShiftRight<31>(hn::BitCast(di, bits)));  // all ones or none
  const auto key = hn::Xor(bits, hn::Or(negative, hn::Set(du, 0x80000000u)));
  // Not Ne(x, x): that is false for NaN on some targets.
  return hn::IfThenElseZero(hn::RebindMask(du, hn::Eq(x, x)), key);
}

// Highway compares unsigned lanes on some targets only: moved down, they compare as signed ones.
template <class D, class DI = hn::RebindToSigned<D>>
HWY_INLINE hn::Vec<DI> Ordered(D du, hn::Vec<D> key) {
  return hn::BitCast(DI(), hn::Xor(key, hn::Set(du, 0x80000000u)));
}

// Appends the keys of `from` that lie in [low, high] to `to` and returns their number; `above` gets the
// number of keys > high. `to` has room for a vector more; it may be `from`.
template <class Load>
std::int64_t Between(std::int64_t n, const Load& load, std::uint32_t low, std::uint32_t high,
                     std::uint32_t* to, std::int64_t& above) {
  const hn::ScalableTag<std::uint32_t> du;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(du));
  const auto low_v = Ordered(du, hn::Set(du, low));
  const auto high_v = Ordered(du, hn::Set(du, high));
  const hn::RebindToSigned<decltype(du)> di;
  std::int64_t kept = 0;
  above = 0;
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto key = load.Vector(du, i);
    const auto ordered = Ordered(du, key);
    const auto over = hn::Gt(ordered, high_v);
    const auto in = hn::AndNot(over, hn::Not(hn::Lt(ordered, low_v)));
    above += static_cast<std::int64_t>(hn::CountTrue(di, over));
    kept += static_cast<std::int64_t>(hn::CompressStore(key, hn::RebindMask(du, in), du, to + kept));
  }
  for (; i < n; ++i) {
    const std::uint32_t key = load.One(i);
    above += key > high;
    if (key >= low && key <= high) to[kept++] = key;
  }
  return kept;
}

struct FromScores {
  const float* scores;
  template <class D>
  HWY_INLINE hn::Vec<D> Vector(D du, std::int64_t i) const {
    return Keys(du, scores + i);
  }
  std::uint32_t One(std::int64_t i) const { return top_k_key(scores[i]); }
};
struct FromKeys {
  const std::uint32_t* keys;
  template <class D>
  HWY_INLINE hn::Vec<D> Vector(D du, std::int64_t i) const {
    return hn::LoadU(du, keys + i);
  }
  std::uint32_t One(std::int64_t i) const { return keys[i]; }
};

// Two keys of `n` that enclose the rank-th largest (from 1) of them, very likely and closely.
template <class Load>
std::pair<std::uint32_t, std::uint32_t> Pivots(std::int64_t n, const Load& load, std::int64_t rank) {
  constexpr std::int64_t kSample = 256;
  std::uint32_t sample[kSample];
  for (std::int64_t i = 0; i < kSample; ++i) sample[i] = load.One((2 * i + 1) * n / (2 * kSample));
  std::sort(sample, sample + kSample, std::greater<>());
  const double share = static_cast<double>(rank) / static_cast<double>(n);
  const double middle = share * kSample;
  const double margin = 1.5 + 2.5 * std::sqrt(kSample * share * (1 - share));
  const auto at = [&](double place) {
    return sample[static_cast<std::int64_t>(std::clamp(place, 0.0, kSample - 1.0))];
  };
  return {middle + margin >= kSample - 1 ? 0 : at(middle + margin),
          middle - margin <= 0 ? 0xffffffffu : at(middle - margin)};
}

// The rank-th largest key of the row (from 1), and how many keys are larger than it.
std::uint32_t Threshold(const float* scores, std::int64_t n, std::int64_t rank,
                        std::vector<std::uint32_t>& buffer, std::int64_t& larger) {
  constexpr std::int64_t kFew = 128;
  const auto room = static_cast<std::size_t>(n) + HWY_MAX_BYTES / sizeof(std::uint32_t);
  if (buffer.size() < room) buffer.resize(room);
  std::uint32_t* keys = buffer.data();
  larger = 0;
  std::int64_t above = 0;

  // The first pass reads scores; if its pivots miss, all keys on their right side are taken.
  const FromScores from{scores};
  auto [low, high] = n > kFew ? Pivots(n, from, rank) : std::pair(0u, 0xffffffffu);
  std::int64_t count = Between(n, from, low, high, keys, above);
  if (rank <= above) {
    low = high + 1;
    high = 0xffffffffu;
    count = Between(n, from, low, high, keys, above);
  } else if (rank > above + count) {
    high = low - 1;
    low = 0;
    count = Between(n, from, low, high, keys, above);
  }
  larger += above;
  rank -= above;

  while (count > kFew && low != high) {
    const FromKeys kept{keys};
    auto [next_low, next_high] = Pivots(count, kept, rank);
    next_low = std::max(next_low, low);
    next_high = std::min(next_high, high);
    if (next_low == low && next_high == high) break;  // the sample does not help: nearly flat
    std::int64_t in = 0;  // counted first: compressing in place would lose the others if the pivots miss
    above = 0;
    for (std::int64_t i = 0; i < count; ++i) {
      above += keys[i] > next_high;
      in += keys[i] >= next_low && keys[i] <= next_high;
    }
    if (rank <= above) {
      next_low = next_high + 1;
      next_high = high;
    } else if (rank > above + in) {
      next_high = next_low - 1;
      next_low = low;
    }
    low = next_low;
    high = next_high;
    count = Between(count, kept, low, high, keys, above);
    larger += above;
    rank -= above;
  }
  if (low == high) return low;
  std::nth_element(keys, keys + rank - 1, keys + count, std::greater<>());
  const std::uint32_t threshold = keys[rank - 1];
  for (std::int64_t i = 0; i < rank - 1; ++i) larger += keys[i] > threshold;
  return threshold;
}

// Positions of keys above the threshold, and of the first `ties` that equal it, ascending. `out` has room for
// exactly k.
void Emit(const float* scores, std::int64_t n, std::uint32_t threshold, std::int64_t ties, std::int32_t* out,
          std::int64_t k) {
  const hn::ScalableTag<std::uint32_t> du;
  const hn::RebindToSigned<decltype(du)> di;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(du));
  const auto threshold_v = Ordered(du, hn::Set(du, threshold));
  std::int64_t written = 0;
  std::int64_t i = 0;
  for (; i + lanes <= n && written + lanes <= k; i += lanes) {
    const auto key = Ordered(du, Keys(du, scores + i));
    auto take = hn::Gt(key, threshold_v);
    const auto equal = hn::Eq(key, threshold_v);
    if (HWY_UNLIKELY(ties > 0 && !hn::AllFalse(di, equal))) {
      const auto found = static_cast<std::int64_t>(hn::CountTrue(di, equal));
      if (found > ties) break;  // the scalar loop takes the first of them
      ties -= found;
      take = hn::Or(take, equal);
    }
    const auto position = hn::Iota(di, static_cast<std::int32_t>(i));
    written += static_cast<std::int64_t>(hn::CompressStore(position, take, di, out + written));
  }
  for (; i < n && written < k; ++i) {
    const std::uint32_t key = top_k_key(scores[i]);
    if (key > threshold || (key == threshold && ties-- > 0)) out[written++] = static_cast<std::int32_t>(i);
  }
}

void TopKRows(const TopKProblem& problem, const TopKArgs& args, std::int64_t begin, std::int64_t end) {
  static thread_local std::vector<std::uint32_t> buffer;
  for (std::int64_t r = begin; r < end; ++r) {
    const std::int64_t length = std::max<std::int64_t>(integer_at(args.lengths, r), 0);
    auto* out = args.out.as<std::int32_t>() + r * args.out.step(0);
    const std::int64_t selected = std::min(length, problem.k);
    if (length <= problem.k) {
      for (std::int64_t i = 0; i < length; ++i) out[i] = static_cast<std::int32_t>(i);
      std::fill(out + length, out + problem.k, -1);
    } else {
      const std::int64_t start = args.starts.given() ? integer_at(args.starts, r) : 0;
      const float* scores = args.scores.as<float>() + r * args.scores.step(0) + start;
      std::int64_t larger = 0;
      const std::uint32_t threshold = Threshold(scores, length, problem.k, buffer, larger);
      Emit(scores, length, threshold, problem.k - larger, out, problem.k);
    }
    if (problem.transform == TopKTransform::plain) continue;
    const TopKWriter write(problem, args, r);
    for (std::int64_t i = 0; i < selected; ++i) out[i] = write(out[i]);
  }
}

}  // namespace fathom::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fathom {
HWY_EXPORT(TopKRows);

void top_k_cpu(const TopKProblem& problem, const TopKArgs& args, const Context& context) {
  const auto rows = HWY_DYNAMIC_DISPATCH(TopKRows);
  constexpr std::int64_t kScoresPerTask = 1 << 14;
  const std::int64_t work = problem.n + problem.k;
  context.parallel_for(problem.rows, kScoresPerTask / work,
                       [&](std::int64_t begin, std::int64_t end) { rows(problem, args, begin, end); });
}
}  // namespace fathom
#endif
