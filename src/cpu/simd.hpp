// Vector loads and stores of any float dtype as f32, for code inside HWY_NAMESPACE. Included once per target.
#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>

#include "fathom/core/tensor.hpp"
#include "ops/elements.hpp"

#if defined(FATHOM_CPU_SIMD_TARGET) == defined(HWY_TARGET_TOGGLE)
#ifdef FATHOM_CPU_SIMD_TARGET
#undef FATHOM_CPU_SIMD_TARGET
#else
#define FATHOM_CPU_SIMD_TARGET
#endif

HWY_BEFORE_NAMESPACE();
namespace fathom::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// Lanes whole elements of f32 or bf16, as f32.
template <class D>
HWY_INLINE hn::Vec<D> LoadWhole(D d, const float* x) {
  return hn::LoadU(d, x);
}
template <class D>
HWY_INLINE hn::Vec<D> LoadWhole(D d, const std::uint16_t* x) {
  const hn::Rebind<std::uint16_t, D> d16;
  const hn::RebindToUnsigned<D> d32;
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(d32, hn::LoadU(d16, x))));
}

/// e4m3 codes as f32, exact; a subnormal code is an integer times 2^-9, so no f32 subnormal ever appears.
template <class D>
HWY_INLINE hn::Vec<D> DecodeF8(D d, const std::uint8_t* codes) {
  const hn::Rebind<std::uint8_t, D> d8;
  const hn::RebindToUnsigned<D> du;
  const hn::RebindToSigned<D> di;
  const auto code = hn::PromoteTo(du, hn::LoadU(d8, codes));
  const auto magnitude = hn::And(code, hn::Set(du, 0x7fu));
  const auto sign = hn::ShiftLeft<24>(hn::And(code, hn::Set(du, 0x80u)));
  const auto normal = hn::Add(hn::ShiftLeft<20>(magnitude), hn::Set(du, 120u << 23));
  const auto small = hn::Mul(hn::ConvertTo(d, hn::BitCast(di, magnitude)), hn::Set(d, 0x1p-9f));
  const auto is_small = hn::Lt(hn::BitCast(di, magnitude), hn::Set(di, 8));
  const auto is_nan = hn::Eq(hn::BitCast(di, magnitude), hn::Set(di, 0x7f));
  auto value = hn::IfThenElse(hn::RebindMask(d, is_small), small, hn::BitCast(d, normal));
  value = hn::IfThenElse(hn::RebindMask(d, is_nan), hn::BitCast(d, hn::Set(du, 0x7fc00000u)), value);
  return hn::Or(value, hn::BitCast(d, sign));
}

#if HWY_TARGET == HWY_AVX2
/// Moved to the places of an f16's exponent and mantissa, the bits of an e4m3 code are its value times 2^-8,
/// subnormal ones included; conversion from f16 to f32 takes them as they are, whatever the processor is told
/// about subnormals.
constexpr float kF8Unit = 256;

/// The sums of four vectors' lanes, all in one order.
HWY_INLINE hn::Vec<hn::Full128<float>> SumsOfFour(hn::Vec<hn::Full256<float>> x0,
                                                  hn::Vec<hn::Full256<float>> x1,
                                                  hn::Vec<hn::Full256<float>> x2,
                                                  hn::Vec<hn::Full256<float>> x3) {
  const hn::Full256<float> d;
  const hn::Full256<double> dd;
  const auto sum01 = hn::Add(hn::InterleaveLower(d, x0, x1), hn::InterleaveUpper(d, x0, x1));
  const auto sum23 = hn::Add(hn::InterleaveLower(d, x2, x3), hn::InterleaveUpper(d, x2, x3));
  const auto low = hn::BitCast(dd, sum01), high = hn::BitCast(dd, sum23);
  const auto quad = hn::Add(hn::BitCast(d, hn::InterleaveLower(dd, low, high)),
                            hn::BitCast(d, hn::InterleaveUpper(dd, low, high)));
  return hn::Add(hn::LowerHalf(quad), hn::UpperHalf(hn::Full128<float>(), quad));
}

/// 16 codes as f16 through kF8Unit, exact; a code's sign fills the two highest bits, its other bits follow.
/// NaN needs `kNan`; without it, NaN reads as 480.
template <bool kNan>
HWY_INLINE hn::Vec<hn::Full256<hwy::float16_t>> HalfOf(hn::Vec<hn::Full256<std::int16_t>> shifted) {
  const hn::Full256<std::int16_t> d;
  auto bits = hn::And(shifted, hn::Set(d, static_cast<std::int16_t>(0xbf80)));
  if constexpr (kNan) {
    const auto magnitude = hn::And(bits, hn::Set(d, 0x7fff));
    const auto nan = hn::VecFromMask(d, hn::Eq(magnitude, hn::Set(d, 0x7f << 7)));
    bits = hn::Or(bits, hn::And(nan, hn::Set(d, 0x7e00)));
  }
  return hn::BitCast(hn::Full256<hwy::float16_t>(), bits);
}
/// The same of codes as they lie.
template <bool kNan>
HWY_INLINE hn::Vec<hn::Full256<hwy::float16_t>> F8ToHalf(const std::uint8_t* codes) {
  const auto* x = reinterpret_cast<const std::int8_t*>(codes);
  const auto words = hn::PromoteTo(hn::Full256<std::int16_t>(), hn::LoadU(hn::Full128<std::int8_t>(), x));
  return HalfOf<kNan>(hn::ShiftLeft<7>(words));
}

/// `n` codes, a multiple of 32, as f16 through kF8Unit.
HWY_INLINE void F8ToHalves(const std::uint8_t* codes, std::int64_t n, hwy::float16_t* to) {
  const hn::Full256<hwy::float16_t> d;
  const hn::Full256<std::uint8_t> du;
  const hn::Full256<std::int8_t> di;
  auto largest = hn::Zero(du);         // 0xff if a code is NaN
  auto largest_signed = hn::Zero(di);  // 0x7f if a code is NaN
#pragma GCC unroll 4
  for (std::int64_t i = 0; i < n; i += 32) {
    const auto x = hn::LoadU(du, codes + i);
    largest = hn::Max(largest, x);
    largest_signed = hn::Max(largest_signed, hn::BitCast(di, x));
    hn::Store(F8ToHalf<false>(codes + i), d, to + i);
    hn::Store(F8ToHalf<false>(codes + i + 16), d, to + i + 16);
  }
  const auto nan = hn::RebindMask(du, hn::Eq(largest_signed, hn::Set(di, 0x7f)));
  if (HWY_LIKELY(hn::AllFalse(du, hn::Or(hn::Eq(largest, hn::Set(du, 0xff)), nan)))) return;
  for (std::int64_t i = 0; i < n; i += 16) hn::Store(F8ToHalf<true>(codes + i), d, to + i);
}
#else
constexpr float kF8Unit = 1;
#endif

/// The values of 2 * Lanes codes through kF8Unit.
template <class D>
HWY_INLINE void DecodeF8Pair(D d, const std::uint8_t* codes, hn::Vec<D>& first, hn::Vec<D>& second) {
#if HWY_TARGET == HWY_AVX2
  const auto half = F8ToHalf<true>(codes);
  first = hn::PromoteTo(d, hn::LowerHalf(half));
  second = hn::PromoteTo(d, hn::UpperHalf(hn::Full128<hwy::float16_t>(), half));
#else
  first = DecodeF8(d, codes);
  second = DecodeF8(d, codes + hn::Lanes(d));
#endif
}

/// Elements [index, index + Lanes) of `data` as f32; elements at and beyond `remaining` read as zero and are
/// not touched.
template <class D>
HWY_INLINE hn::Vec<D> LoadFloats(D d, const void* data, DType dtype, std::int64_t index,
                                 std::int64_t remaining) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  if (HWY_LIKELY(remaining >= lanes)) {
    if (dtype == DType::f32) return LoadWhole(d, static_cast<const float*>(data) + index);
    if (dtype == DType::bf16) return LoadWhole(d, static_cast<const std::uint16_t*>(data) + index);
  }
  HWY_ALIGN float lane[HWY_MAX_BYTES / sizeof(float)] = {};
  for (std::int64_t i = 0; i < std::min(lanes, remaining); ++i)
    lane[i] = load_element(data, dtype, index + i);
  return hn::Load(d, lane);
}

/// The inverse: rounds to the dtype and writes min(Lanes, remaining) elements.
template <class D>
HWY_INLINE void StoreFloats(D d, hn::Vec<D> value, void* data, DType dtype, std::int64_t index,
                            std::int64_t remaining) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  if (HWY_LIKELY(remaining >= lanes && dtype == DType::f32)) {
    hn::StoreU(value, d, static_cast<float*>(data) + index);
    return;
  }
  if (HWY_LIKELY(remaining >= lanes && dtype == DType::bf16)) {  // as float_to_bf16
    const hn::Rebind<std::uint16_t, D> d16;
    const hn::RebindToUnsigned<D> d32;
    const auto bits = hn::BitCast(d32, value);
    const auto upper = hn::ShiftRight<16>(bits);
    const auto odd = hn::And(upper, hn::Set(d32, 1u));
    const auto rounded = hn::ShiftRight<16>(hn::Add(hn::Add(bits, hn::Set(d32, 0x7fffu)), odd));
    const auto nan = hn::RebindMask(d32, hn::IsNaN(value));
    const auto result = hn::IfThenElse(nan, hn::Or(upper, hn::Set(d32, 0x40u)), rounded);
    hn::StoreU(hn::TruncateTo(d16, result), d16, static_cast<std::uint16_t*>(data) + index);
    return;
  }
  HWY_ALIGN float lane[HWY_MAX_BYTES / sizeof(float)];
  hn::Store(value, d, lane);
  for (std::int64_t i = 0; i < std::min(lanes, remaining); ++i)
    store_element(data, dtype, index + i, lane[i]);
}

}  // namespace fathom::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
