// Quantises groups of 128 with vectors: the same bytes as ops/group_quant.hpp. Included once per target.
#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "cpu/simd.hpp"
#include "ops/group_quant.hpp"

#if defined(FATHOM_CPU_GROUP_QUANT_TARGET) == defined(HWY_TARGET_TOGGLE)
#ifdef FATHOM_CPU_GROUP_QUANT_TARGET
#undef FATHOM_CPU_GROUP_QUANT_TARGET
#else
#define FATHOM_CPU_GROUP_QUANT_TARGET
#endif

HWY_BEFORE_NAMESPACE();
namespace fathom::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// The bits of max |x| over 128 values; at least 0x7f800000 if one is infinite or NaN.
template <class D, class T>
HWY_INLINE std::int32_t GroupAmaxBits(D d, const T* HWY_RESTRICT x) {
  const hn::RebindToSigned<D> di;
  const auto magnitude_mask = hn::Set(di, 0x7fffffff);
  auto amax = hn::Zero(di);
  for (std::size_t i = 0; i < kQuantGroup; i += hn::Lanes(d)) {
    amax = hn::Max(amax, hn::And(hn::BitCast(di, LoadWhole(d, x + i)), magnitude_mask));
  }
  return hn::GetLane(hn::MaxOfLanes(di, amax));
}

/// e4m3 codes of finite values below 464, to nearest even. Adding c = 2^20 times the value's power of two (at
/// least 2^-6, the smallest normal) leaves the unit 2^-3 of that power in the last bit of the sum, so the
/// addition rounds.
template <class D>
HWY_INLINE hn::Vec<hn::Rebind<std::uint8_t, D>> E4m3Codes(D d, hn::Vec<D> value) {
  const hn::RebindToUnsigned<D> du;
  const hn::RebindToSigned<D> di;
  const auto bits = hn::BitCast(du, value);
  const auto magnitude = hn::Abs(value);
  const auto power = hn::BitCast(
      du, hn::Max(hn::And(hn::BitCast(di, bits), hn::Set(di, 0x7f800000)), hn::Set(di, 0x3c800000)));
  const auto c = hn::Add(power, hn::Set(du, 20u << 23));
  const auto sum = hn::BitCast(du, hn::Add(magnitude, hn::BitCast(d, c)));
  // (exponent + 7) * 8 + (mantissa with its leading one - 8)
  const auto code =
      hn::Add(hn::Sub(sum, c), hn::Sub(hn::ShiftRight<20>(c), hn::Set(du, (20u + 127 - 7) * 8 + 8)));
  const auto sign = hn::And(hn::ShiftRight<24>(bits), hn::Set(du, 0x80u));
  return hn::U8FromU32(hn::Or(code, sign));
}

template <class D, class T>
HWY_INLINE void EncodeGroup(D d, const T* HWY_RESTRICT x, const GroupScale& group,
                            std::uint8_t* HWY_RESTRICT q) {
  const hn::Rebind<std::uint8_t, D> d8;
  const auto factor = hn::Set(d, group.factor);
  if (group.divide) {
    for (std::size_t i = 0; i < kQuantGroup; i += hn::Lanes(d)) {
      hn::StoreU(E4m3Codes(d, hn::Div(LoadWhole(d, x + i), factor)), d8, q + i);
    }
    return;
  }
  for (std::size_t i = 0; i < kQuantGroup; i += hn::Lanes(d)) {
    hn::StoreU(E4m3Codes(d, hn::Mul(LoadWhole(d, x + i), factor)), d8, q + i);
  }
}

/// Quantises one whole group; returns the stored scale.
template <class D, class T>
HWY_INLINE float QuantizeGroup(D d, QuantRule rule, ScaleFormat format, const T* HWY_RESTRICT x,
                               std::uint8_t* HWY_RESTRICT q) {
  const std::int32_t amax = GroupAmaxBits(d, x);
  if (HWY_UNLIKELY(amax >= 0x7f800000)) return quantize_group_of(rule, format, x, q);
  const GroupScale group = group_scale(rule, format, std::bit_cast<float>(amax));
  EncodeGroup(d, x, group, q);
  return group.scale;
}

/// Quantises k neighbouring values of row `row`, whose first group is number `first`.
template <class D, class T>
HWY_INLINE void QuantizeRow(D d, QuantRule rule, ScaleFormat format, const T* HWY_RESTRICT x, std::int64_t k,
                            std::uint8_t* HWY_RESTRICT q, const ScaleWriter& scales, std::int64_t row,
                            std::int64_t first = 0) {
  std::int64_t begin = 0;
  for (; begin + kQuantGroup <= k; begin += kQuantGroup, ++first) {
    scales.write(row, first, QuantizeGroup(d, rule, format, x + begin, q + begin));
  }
  if (begin == k) return;
  // The short last group: zeros do not change its amax.
  const auto n = static_cast<std::size_t>(k - begin);
  HWY_ALIGN T padded[kQuantGroup] = {};
  HWY_ALIGN std::uint8_t codes[kQuantGroup];
  std::memcpy(padded, x + begin, n * sizeof(T));
  scales.write(row, first, QuantizeGroup(d, rule, format, padded, codes));
  std::memcpy(q + begin, codes, n);
}

}  // namespace fathom::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
