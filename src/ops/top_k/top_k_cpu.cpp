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

#ifndef FATHOM_TOP_K_PACKED_LANES
#define FATHOM_TOP_K_PACKED_LANES
namespace fathom {
/// For a mask of up to eight lanes: the numbers of those that are set, ascending, then zeros.
struct PackedLanes {
  std::uint8_t lanes[256][8]{};
  constexpr PackedLanes() {
    for (unsigned mask = 0; mask < 256; ++mask) {
      unsigned count = 0;
      for (std::uint8_t lane = 0; lane < 8; ++lane) {
        if ((mask >> lane & 1) != 0) lanes[mask][count++] = lane;
      }
    }
  }
};
inline constexpr PackedLanes kPackedLanes;
}  // namespace fathom
#endif

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

// The lanes of `v` that `mask` has, moved to the front; what is behind them is undefined.
template <class D, class M>
HWY_INLINE hn::Vec<D> Packed(D d, hn::Vec<D> v, M mask) {
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_SSE4
  // GCC copies the table of Highway's own to the stack in every call.
  std::uint8_t bits[8];
  hn::StoreMaskBits(d, mask, bits);
  const hn::Rebind<std::uint8_t, D> d8;
  const hn::RebindToSigned<D> di;
  const auto lanes = hn::PromoteTo(di, hn::LoadU(d8, kPackedLanes.lanes[bits[0]]));
  return hn::TableLookupLanes(v, hn::IndicesFromVec(d, lanes));
#else
  (void)d;
  return hn::Compress(v, mask);
#endif
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
    // Not CompressStore: compressing to memory is many times slower on some CPUs.
    hn::StoreU(Packed(du, key, hn::RebindMask(du, in)), du, to + kept);
    kept += static_cast<std::int64_t>(hn::CountTrue(di, in));
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

constexpr std::int64_t kFew = 128;

// The rank-th largest (from 1) of at most kFew keys, by bisection: a fixed number of steps and no branch that
// depends on data, which sorting would mispredict.
class Few {
 public:
  template <class Load>
  Few(std::int64_t n, const Load& load) {
    for (std::int64_t i = 0; i < n; ++i) keys_[i] = load(i);
    std::fill(keys_ + n, keys_ + kFew, 0);  // counted by no step
  }
  std::uint32_t Largest(std::int64_t rank, std::int64_t& larger) const {
    std::uint32_t threshold = 0;
    larger = 0;
    std::int64_t not_taken = 0;
    for (int bit = 31; bit >= 0; --bit) {
      const std::uint32_t next = threshold | (1u << bit);
      const std::int64_t count = CountFrom(next);
      threshold = count >= rank ? next : threshold;
      not_taken = count >= rank ? not_taken : count;
    }
    larger = not_taken;  // of the smallest bound that was too high, threshold + 1
    return threshold;
  }

 private:
  std::int64_t CountFrom(std::uint32_t least) const {  // least is not 0
    const hn::ScalableTag<std::uint32_t> du;
    const hn::RebindToSigned<decltype(du)> di;
    const auto bound = Ordered(du, hn::Set(du, least - 1));
    std::size_t count = 0;
    for (std::size_t j = 0; j < kFew; j += hn::Lanes(du))
      count += hn::CountTrue(di, hn::Gt(Ordered(du, hn::Load(du, keys_ + j)), bound));
    return static_cast<std::int64_t>(count);
  }
  HWY_ALIGN std::uint32_t keys_[kFew];
};

// A search for the rank-th largest key of a row, which lies in [low, high].
struct Search {
  std::int64_t rank;        // among the keys in [low, high], from 1
  std::int64_t larger = 0;  // keys above `high`
  std::uint32_t low = 0;
  std::uint32_t high = 0xffffffffu;

  // Narrows [low, high] by two pivots out of a sample of the n keys that lie in it, and moves those that
  // still do to `to`, which is not where they are. Returns their number.
  template <class Load>
  std::int64_t Narrow(std::int64_t n, const Load& load, std::uint32_t* to) {
    const Few sample(kFew, [&](std::int64_t i) { return load.One((2 * i + 1) * n / (2 * kFew)); });
    const double share = static_cast<double>(rank) / static_cast<double>(n);
    const double margin = 1.5 + 2.5 * std::sqrt(kFew * share * (1 - share));
    const auto before = static_cast<std::int64_t>(share * kFew - margin);
    const auto after = static_cast<std::int64_t>(share * kFew + margin) + 1;
    std::int64_t above = 0;
    const std::uint32_t lower = after > kFew ? low : std::max(low, sample.Largest(after, above));
    const std::uint32_t upper = before < 1 ? high : std::min(high, sample.Largest(before, above));
    std::int64_t kept = Between(n, load, lower, upper, to, above);
    if (rank <= above) {
      low = upper + 1;
      kept = Between(n, load, low, high, to, above);
    } else if (rank > above + kept) {
      high = lower - 1;
      kept = Between(n, load, low, high, to, above);
    } else {
      low = lower;
      high = upper;
    }
    larger += above;
    rank -= above;
    return kept;
  }
};

// The rank-th largest key of the row (from 1), and how many keys are larger than it.
std::uint32_t Threshold(const float* scores, std::int64_t n, std::int64_t rank,
                        std::vector<std::uint32_t>& buffer, std::int64_t& larger) {
  const std::int64_t room = n + static_cast<std::int64_t>(HWY_MAX_BYTES / sizeof(std::uint32_t));
  if (static_cast<std::int64_t>(buffer.size()) < 2 * room) buffer.resize(static_cast<std::size_t>(2 * room));
  std::uint32_t* keys = buffer.data();
  std::uint32_t* other = keys + room;
  Search search{.rank = rank};
  std::int64_t above = 0;
  std::int64_t count = n > kFew ? search.Narrow(n, FromScores{scores}, keys)
                                : Between(n, FromScores{scores}, 0, 0xffffffffu, keys, above);
  while (count > kFew && search.low != search.high) {
    const std::int64_t before = count;
    count = search.Narrow(count, FromKeys{keys}, other);
    std::swap(keys, other);
    if (count == before) break;  // the sample does not help: a few values, nearly flat
  }
  larger = search.larger;
  if (search.low == search.high) return search.low;
  if (count <= kFew) {
    const std::uint32_t threshold =
        Few(count, [&](std::int64_t i) { return keys[i]; }).Largest(search.rank, above);
    larger += above;
    return threshold;
  }
  std::nth_element(keys, keys + search.rank - 1, keys + count, std::greater<>());
  const std::uint32_t threshold = keys[search.rank - 1];
  for (std::int64_t i = 0; i < search.rank - 1; ++i) larger += keys[i] > threshold;
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
    hn::StoreU(Packed(di, position, take), di, out + written);
    written += static_cast<std::int64_t>(hn::CountTrue(di, take));
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
  constexpr std::int64_t kScoresPerTask = 1 << 11;
  const std::int64_t work = problem.n + problem.k;
  context.parallel_for(problem.rows, kScoresPerTask / work,
                       [&](std::int64_t begin, std::int64_t end) { rows(problem, args, begin, end); });
}
}  // namespace fathom
#endif
