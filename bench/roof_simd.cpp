// The loops of roof.cpp, compiled once for every vector target.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "roof_simd.cpp"
#include <hwy/foreach_target.h>
// must follow foreach_target.h
#include <hwy/highway.h>

#include "roof.hpp"

HWY_BEFORE_NAMESPACE();
namespace fathom::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Four streams: one stream does not keep enough lines in flight to reach the memory's limit.
std::uint64_t ReadWords(const std::uint64_t* words, std::int64_t count) {
  const hn::ScalableTag<std::uint64_t> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const std::int64_t part = count / 4 / lanes * lanes;
  auto sum0 = hn::Zero(d);
  auto sum1 = hn::Zero(d);
  for (std::int64_t i = 0; i < part; i += lanes) {
    sum0 = hn::Add(sum0, hn::Add(hn::LoadU(d, words + i), hn::LoadU(d, words + part + i)));
    sum1 = hn::Add(sum1, hn::Add(hn::LoadU(d, words + 2 * part + i), hn::LoadU(d, words + 3 * part + i)));
  }
  // Lane by lane: GCC 12's reduction adds signed, which the undefined-behaviour sanitizer refuses when it
  // wraps.
  std::uint64_t lane[hn::MaxLanes(d)];
  hn::StoreU(hn::Add(sum0, sum1), d, lane);
  std::uint64_t total = 0;
  for (std::int64_t i = 0; i < lanes; ++i) total += lane[i];
  for (std::int64_t i = 4 * part; i < count; ++i) total += words[i];
  return total;
}

// Twelve independent chains: two units with a latency of four or five cycles stay busy.
double RunFma(std::int64_t rounds, float* sink) {
  const hn::ScalableTag<float> d;
  const auto a = hn::Set(d, 0.999f);
  const auto b = hn::Set(d, 1e-3f);
  const auto start = [&](int chain) {
    return hn::Set(d, static_cast<float>(chain));
  };  // equal chains would be merged
  auto c0 = start(0), c1 = start(1), c2 = start(2), c3 = start(3), c4 = start(4), c5 = start(5);
  auto c6 = start(6), c7 = start(7), c8 = start(8), c9 = start(9), c10 = start(10), c11 = start(11);
  for (std::int64_t i = 0; i < rounds; ++i) {
    c0 = hn::MulAdd(c0, a, b), c1 = hn::MulAdd(c1, a, b), c2 = hn::MulAdd(c2, a, b);
    c3 = hn::MulAdd(c3, a, b), c4 = hn::MulAdd(c4, a, b), c5 = hn::MulAdd(c5, a, b);
    c6 = hn::MulAdd(c6, a, b), c7 = hn::MulAdd(c7, a, b), c8 = hn::MulAdd(c8, a, b);
    c9 = hn::MulAdd(c9, a, b), c10 = hn::MulAdd(c10, a, b), c11 = hn::MulAdd(c11, a, b);
  }
  const auto first = hn::Add(hn::Add(hn::Add(c0, c1), hn::Add(c2, c3)), hn::Add(c4, c5));
  const auto second = hn::Add(hn::Add(hn::Add(c6, c7), hn::Add(c8, c9)), hn::Add(c10, c11));
  *sink = hn::GetLane(hn::SumOfLanes(d, hn::Add(first, second)));
  return 24.0 * static_cast<double>(rounds) * static_cast<double>(hn::Lanes(d));
}

}  // namespace fathom::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fathom::roof_detail {
HWY_EXPORT(ReadWords);
HWY_EXPORT(RunFma);
std::uint64_t read_words(const std::uint64_t* words, std::int64_t count) {
  return HWY_DYNAMIC_DISPATCH(ReadWords)(words, count);
}
double run_fma(std::int64_t rounds, float* sink) { return HWY_DYNAMIC_DISPATCH(RunFma)(rounds, sink); }
}  // namespace fathom::roof_detail
#endif
