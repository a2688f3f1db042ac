#include "fathom/core/tensor.hpp"

#include <bit>
#include <cmath>

#include "fathom/core/error.hpp"

namespace fathom {
namespace {
struct DTypeRow {
  DType dtype;
  std::string_view name;
  std::int64_t bytes;
};
constexpr std::array kDTypes{DTypeRow{DType::f32, "f32", 4}, DTypeRow{DType::bf16, "bf16", 2},
                             DTypeRow{DType::f16, "f16", 2}, DTypeRow{DType::f8e4m3, "f8e4m3", 1},
                             DTypeRow{DType::i32, "i32", 4}, DTypeRow{DType::i64, "i64", 8},
                             DTypeRow{DType::u8, "u8", 1}};
}  // namespace

std::int64_t size_of(DType dtype) { return kDTypes[static_cast<std::size_t>(dtype)].bytes; }

std::string to_string(Device device) {
  return device.kind == DeviceKind::host ? "cpu" : "cuda:" + std::to_string(device.index);
}

std::string_view to_string(DType dtype) { return kDTypes[static_cast<std::size_t>(dtype)].name; }

std::optional<DType> parse_dtype(std::string_view name) {
  for (const auto& row : kDTypes) {
    if (row.name == name) return row.dtype;
  }
  return std::nullopt;
}

TensorView TensorView::contiguous(void* data, DType dtype, std::initializer_list<std::int64_t> shape,
                                  Device device) {
  if (shape.size() > static_cast<std::size_t>(kMaxRank))
    throw InvalidArgument("TensorView: rank must be at most 5");
  TensorView view{.data = data, .dtype = dtype, .device = device, .rank = static_cast<int>(shape.size())};
  std::size_t axis = 0;
  for (const std::int64_t size : shape) view.shape[axis++] = size;
  std::int64_t step = 1;
  for (axis = shape.size(); axis-- > 0;) {
    view.stride[axis] = step;
    if (view.shape[axis] < 0)
      throw InvalidArgument("TensorView: sizes must not be negative, got " + shape_string(view));
    if (view.shape[axis] > 0 && __builtin_mul_overflow(step, view.shape[axis], &step)) {
      throw InvalidArgument("TensorView: the size of " + shape_string(view) + " overflows 64 bits");
    }
  }
  return view;
}

std::int64_t TensorView::count() const {
  std::int64_t total = 1;
  for (int axis = 0; axis < rank; ++axis) total *= size(axis);
  return total;
}

bool TensorView::is_contiguous() const {
  std::int64_t expected = 1;
  for (int axis = rank; axis-- > 0;) {
    if (size(axis) == 0) return true;
    if (size(axis) != 1 && step(axis) != expected) return false;
    expected *= size(axis);
  }
  return true;
}

TensorView TensorView::rows(std::int64_t begin, std::int64_t end) const {
  if (rank == 0 || begin < 0 || end < begin || end > size(0)) {
    throw InvalidArgument("TensorView: rows [" + std::to_string(begin) + "," + std::to_string(end) +
                          ") are outside of " + shape_string(*this));
  }
  TensorView part = *this;
  part.shape[0] = end - begin;
  part.data = static_cast<std::byte*>(data) + begin * step(0) * size_of(dtype);
  return part;
}

std::string shape_string(const TensorView& tensor) {
  std::string text = "[";
  for (int axis = 0; axis < tensor.rank; ++axis)
    text += (axis ? "," : "") + std::to_string(tensor.size(axis));
  return text + "]";
}

float bf16_to_float(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

std::uint16_t float_to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (std::isnan(value))
    return static_cast<std::uint16_t>((bits >> 16) | 0x40);  // quiet, and never rounded to infinity
  return static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

float f16_to_float(std::uint16_t bits) {
  const std::uint32_t sign = (bits & 0x8000u) << 16;
  const std::uint32_t exponent = (bits >> 10) & 0x1f;
  const std::uint32_t mantissa = bits & 0x3ffu;
  if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign ? -magnitude : magnitude;
  }
  const std::uint32_t wide = exponent == 31 ? 0xffu : exponent + 112;
  return std::bit_cast<float>(sign | (wide << 23) | (mantissa << 13));
}

float f8e4m3_to_float(std::uint8_t bits) {
  const int exponent = (bits >> 3) & 0xf;
  const int mantissa = bits & 7;
  if (exponent == 15 && mantissa == 7) return std::bit_cast<float>(0x7fc00000u | ((bits & 0x80u) << 24));
  const float magnitude = exponent == 0 ? static_cast<float>(mantissa) * 0x1p-9f
                                        : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
  return (bits & 0x80) ? -magnitude : magnitude;
}

std::uint8_t float_to_f8e4m3(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint8_t>((bits >> 24) & 0x80);
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0x7f;
  if (magnitude >= 0x43e00000u) return static_cast<std::uint8_t>(sign | 0x7e);  // 448 and above
  if (magnitude <
      0x3c800000u) {  // below 2^-6: a multiple of 2^-9; adding 2^14 * 2^-9 * 2^... rounds in the float unit
    const float rounded = std::bit_cast<float>(magnitude) + 0x1p14f;  // ulp of 2^14 is 2^-9
    return static_cast<std::uint8_t>(sign | (std::bit_cast<std::uint32_t>(rounded) & 0xf));
  }
  const std::uint32_t rounded = magnitude + 0x7ffffu + ((magnitude >> 20) & 1);
  return static_cast<std::uint8_t>(sign | ((rounded >> 20) - (120u << 3)));
}

}  // namespace fathom
