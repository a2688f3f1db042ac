#include "fathom/ops/quantization.hpp"

#include <array>
#include <bit>
#include <limits>

#include "fathom/core/error.hpp"

namespace fathom {
namespace {
// In the order of the enumerators.
constexpr std::array<std::string_view, 5> kRules{"per_token_group", "silu_mul", "indexer", "per_token_cast",
                                                 "kv_cache"};
constexpr std::array<std::string_view, 2> kFormats{"f32", "ue8m0"};
constexpr std::array<std::string_view, 4> kLayouts{"row_major", "column_major", "aligned_column_major",
                                                   "packed_ue8m0"};

template <class E, std::size_t kCount>
bool parse(const std::array<std::string_view, kCount>& names, std::string_view name, E& value) {
  for (std::size_t i = 0; i < kCount; ++i) {
    if (names[i] != name) continue;
    value = static_cast<E>(i);
    return true;
  }
  return false;
}

bool aligned(ScaleLayout layout) {
  return layout == ScaleLayout::aligned_column_major || layout == ScaleLayout::packed_ue8m0;
}
}  // namespace

std::string_view to_string(QuantRule rule) { return kRules[static_cast<std::size_t>(rule)]; }
std::string_view to_string(ScaleFormat format) { return kFormats[static_cast<std::size_t>(format)]; }
std::string_view to_string(ScaleLayout layout) { return kLayouts[static_cast<std::size_t>(layout)]; }
bool parse_enum(std::string_view name, QuantRule& rule) { return parse(kRules, name, rule); }
bool parse_enum(std::string_view name, ScaleFormat& format) { return parse(kFormats, name, format); }
bool parse_enum(std::string_view name, ScaleLayout& layout) { return parse(kLayouts, name, layout); }

TensorView scale_view(void* data, ScaleLayout layout, std::int64_t batch, std::int64_t rows,
                      std::int64_t groups) {
  const bool packed = layout == ScaleLayout::packed_ue8m0;
  const std::int64_t columns = packed ? (groups + 3) / 4 : groups;
  const std::int64_t column_step = aligned(layout) ? aligned_scale_rows(rows) : rows;
  // contiguous() refuses negative sizes and products that overflow.
  TensorView view =
      TensorView::contiguous(data, packed ? DType::i32 : DType::f32, {batch, columns, column_step});
  const std::int64_t matrix = view.step(0);
  view.shape = {batch, rows, columns};
  view.stride = layout == ScaleLayout::row_major ? std::array<std::int64_t, kMaxRank>{matrix, columns, 1}
                                                 : std::array<std::int64_t, kMaxRank>{matrix, 1, column_step};
  return view;
}

TensorView scale_view(void* data, ScaleLayout layout, std::int64_t rows, std::int64_t groups) {
  TensorView view = scale_view(data, layout, 1, rows, groups);
  view.rank = 2;
  view.shape = {view.size(1), view.size(2)};
  view.stride = {view.step(1), view.step(2)};
  return view;
}

std::int64_t scale_bytes(ScaleLayout layout, std::int64_t rows, std::int64_t groups) {
  const TensorView view = scale_view(nullptr, layout, 1, rows, groups);
  return view.count() == 0 ? 0 : view.step(0) * size_of(view.dtype);
}

TensorView with_aligned_stride(TensorView scale) {
  if (scale.rank < 2 || scale.size(scale.rank - 1) != 1) return scale;
  const auto last = static_cast<std::size_t>(scale.rank - 1);
  scale.stride[last] = aligned_scale_rows(scale.shape[last - 1]);
  return scale;
}

std::uint8_t round_up_to_e8m0(float x) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x) & 0x7fffffffu;
  const std::uint32_t mantissa = bits & 0x7fffffu;
  const std::uint32_t exponent = bits >> 23;
  // 2^-127 is the denormal with mantissa 0x400000; 2^128 does not exist, so exponent 254 stays.
  const bool up = mantissa > 0 && exponent < 254 && !(exponent == 0 && mantissa <= 0x400000u);
  return static_cast<std::uint8_t>(exponent + (up ? 1 : 0));
}

float ue8m0_to_float(std::uint8_t byte) {
  if (byte == 255) return std::numeric_limits<float>::quiet_NaN();
  if (byte == 0) return 0x1p-127f;
  return std::bit_cast<float>(static_cast<std::uint32_t>(byte) << 23);
}

}  // namespace fathom
