// How matrix products read their scales: f32 with any strides, or UE8M0 exponents packed four to an i32.
#pragma once
#include <bit>
#include <cstdint>

#include "fathom/core/tensor.hpp"

namespace fathom {

inline constexpr std::int64_t kScaleGroup = 128;  // elements along k, and rows of a block, that share a scale
inline std::int64_t scale_groups(std::int64_t size) { return (size + kScaleGroup - 1) / kScaleGroup; }

/// 2^(exponent - 127) of a UE8M0 byte; 0 gives 2^-127, 255 NaN.
inline float ue8m0_to_float(std::uint32_t exponent) {
  if (exponent == 0) return 0x1p-127f;
  if (exponent == 255) return std::bit_cast<float>(0x7fc00000u);
  return std::bit_cast<float>(exponent << 23);
}

/// The scale of row (or block row) i and group g.
inline float scale_at(const TensorView& scale, std::int64_t i, std::int64_t g) {
  if (scale.dtype == DType::f32) return scale.as<float>()[i * scale.step(0) + g * scale.step(1)];
  const auto word =
      static_cast<std::uint32_t>(scale.as<std::int32_t>()[i * scale.step(0) + g / 4 * scale.step(1)]);
  return ue8m0_to_float(word >> (8 * (g % 4)) & 0xff);
}

}  // namespace fathom
