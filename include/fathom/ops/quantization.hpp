// FP8 scales: the rules that make them, the layouts they are kept in, and views of those layouts.
#pragma once
#include <algorithm>
#include <bit>
#include <cstdint>
#include <string_view>

#include "fathom/core/tensor.hpp"

namespace fathom {

/// Values that share one scale: a row's run of 128, or a 128 x 128 block of a weight.
inline constexpr std::int64_t kQuantGroup = 128;
inline constexpr std::int64_t scale_groups(std::int64_t k) { return (k + kQuantGroup - 1) / kQuantGroup; }

/// Where a value is quantised decides the floor of its group's amax = max |x| and how x becomes q =
/// e4m3(...). Checkpoints and peers fix these: they differ on purpose. s is the stored scale, x ~ q * s.
///
///   rule             floor   s         q
///   per_token_group  1e-10   amax/448  x * (448/amax)
///   silu_mul         1e-10   amax/448  x * (1/s)
///   indexer          1e-4    amax/448  x / s
///   per_token_cast   1e-4    amax/448  x * (448/amax)
///   kv_cache         none    amax/448  x * (1/s); a group whose 1/s is not finite (amax below about 1.3e-36)
///                                      gives s = 0 and q = 0
enum class QuantRule : std::uint8_t { per_token_group, silu_mul, indexer, per_token_cast, kv_cache };

/// f32: s as the rule says. ue8m0: s is that rounded up to a power of two in [2^-126, 2^127], and every rule
/// takes q = e4m3(x / s), which is exact up to the rounding to e4m3.
enum class ScaleFormat : std::uint8_t { f32, ue8m0 };

/// How the scales of [rows, groups] are kept.
///
///   row_major             f32 [rows, groups], stride (any, 1)
///   column_major          f32 [rows, groups], stride (1, >= rows)
///   aligned_column_major  f32 [rows, groups], stride (1, a multiple of 4 >= rows)
///   packed_ue8m0          i32 [rows, ceil(groups/4)], stride (1, a multiple of 4 >= rows): byte j of word i
///   is
///                         the exponent of group 4i+j plus 127; bytes of groups that do not exist are zero
///
/// The stride of an axis of size 1 is ignored.
enum class ScaleLayout : std::uint8_t { row_major, column_major, aligned_column_major, packed_ue8m0 };

std::string_view to_string(QuantRule rule);
std::string_view to_string(ScaleFormat format);
std::string_view to_string(ScaleLayout layout);
bool parse_enum(std::string_view name, QuantRule& rule);
bool parse_enum(std::string_view name, ScaleFormat& format);
bool parse_enum(std::string_view name, ScaleLayout& layout);

/// The next multiple of 4: columns of 4-byte scales then start on 16 bytes.
inline constexpr std::int64_t aligned_scale_rows(std::int64_t rows) { return (rows + 3) / 4 * 4; }
/// Bytes that scale_view(data, layout, rows, groups) spans, its padding included.
std::int64_t scale_bytes(ScaleLayout layout, std::int64_t rows, std::int64_t groups);
/// A view of `data` in a layout, with the smallest strides that it allows.
TensorView scale_view(void* data, ScaleLayout layout, std::int64_t rows, std::int64_t groups);
/// The same for `batch` matrices one after another: [batch, rows, ...].
TensorView scale_view(void* data, ScaleLayout layout, std::int64_t batch, std::int64_t rows,
                      std::int64_t groups);
/// Gives a packed or aligned [..., rows, 1] view its stride back: DLPack writes 1 for the stride of an axis
/// of size 1, and consumers that load whole columns need the aligned one. Other views are returned as they
/// are.
TensorView with_aligned_stride(TensorView scale);

/// The power of two that is not below |x|, kept in [2^-126, 2^127]. Zero and denormals give 2^-126.
inline float ceil_to_ue8m0(float x) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x) & 0x7fffffffu;
  const std::uint32_t exponent = (bits >> 23) + ((bits & 0x7fffffu) != 0 ? 1 : 0);
  return std::bit_cast<float>(std::clamp(exponent, 1u, 254u) << 23);
}
/// The exponent byte (value 2^(byte-127)) of x rounded up; denormals up to 2^-127 and zero give byte 0, inf
/// and NaN give 255 (NaN in UE8M0). The sign is dropped.
std::uint8_t round_up_to_e8m0(float x);
/// 2^(byte-127); byte 255 is NaN.
float ue8m0_to_float(std::uint8_t byte);

}  // namespace fathom
