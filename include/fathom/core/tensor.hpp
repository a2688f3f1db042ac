// The nouns of every contract: DType, Device, TensorView.
#pragma once
#include <array>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>

namespace fathom {

enum class DType : std::uint8_t { f32, bf16, f16, f8e4m3, i32, i64, u8 };

/// Bytes of one element.
std::int64_t size_of(DType dtype);
/// "f32", "bf16", ...
std::string_view to_string(DType dtype);
/// The inverse of to_string; nothing if no dtype has that name.
std::optional<DType> parse_dtype(std::string_view name);

enum class DeviceKind : std::uint8_t { host, cuda };

struct Device {
  DeviceKind kind = DeviceKind::host;
  int index = 0;
  bool operator==(const Device&) const = default;
};

/// "cpu", "cuda:1"
std::string to_string(Device device);

inline constexpr int kMaxRank = 5;

/// A view of a strided tensor that somebody else owns. Strides count elements, not bytes (as in DLPack).
/// A default-constructed view is empty and means "not given" for optional arguments.
struct TensorView {
  void* data = nullptr;
  DType dtype = DType::f32;
  Device device{};
  int rank = 0;
  std::array<std::int64_t, kMaxRank> shape{};
  std::array<std::int64_t, kMaxRank> stride{};

  /// A contiguous row-major view. Throws InvalidArgument on a negative size, a rank above kMaxRank, or a size
  /// whose product overflows 64 bits.
  static TensorView contiguous(void* data, DType dtype, std::initializer_list<std::int64_t> shape,
                               Device device = {});

  bool given() const { return rank != 0 || data != nullptr; }
  std::int64_t size(int axis) const { return shape[static_cast<std::size_t>(axis)]; }
  std::int64_t step(int axis) const { return stride[static_cast<std::size_t>(axis)]; }
  /// Number of elements.
  std::int64_t count() const;
  /// True if elements follow one another in row-major order. Axes of size 1 do not matter.
  bool is_contiguous() const;
  /// Rows [begin, end) of axis 0, as a view.
  TensorView rows(std::int64_t begin, std::int64_t end) const;

  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

/// "[2,32]"
std::string shape_string(const TensorView& tensor);

/// 16-bit brain float: the upper half of a float, and the conversions both ways (round to nearest even; NaN
/// stays NaN).
float bf16_to_float(std::uint16_t bits);
std::uint16_t float_to_bf16(float value);
/// IEEE half.
float f16_to_float(std::uint16_t bits);
/// e4m3 without infinities (float8_e4m3fn): largest finite value 448, 0x7f and 0xff are NaN.
float f8e4m3_to_float(std::uint8_t bits);
/// Round to nearest even, saturating to +-448; NaN gives 0x7f.
std::uint8_t float_to_f8e4m3(float value);

}  // namespace fathom
