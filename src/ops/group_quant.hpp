// The arithmetic of one quantisation group and the place of its scale: what every quantising op shares.
#pragma once
#include <bit>
#include <cmath>
#include <limits>

#include "fathom/ops/quantization.hpp"
#include "ops/validate.hpp"

namespace fathom {

/// What one group of a rule needs: the stored scale, and the factor (or divisor) that x meets.
struct GroupScale {
  float scale = 0;
  float factor = 0;
  bool divide = false;

  std::uint8_t quantize(float x) const { return float_to_f8e4m3(divide ? x / factor : x * factor); }
};

/// The largest |x| with NaN passed over: a NaN spoils its own element (code 0x7f), not its group.
inline float update_amax(float amax, float x) { return std::abs(x) > amax ? std::abs(x) : amax; }

/// The scale of a group whose largest |x| is amax (>= 0, not NaN). A finite amax gives a finite scale and
/// factor; infinity gives the f32 scale infinity (finite x: q = 0, infinite x: NaN) or the ue8m0 scale 2^127.
inline GroupScale group_scale(QuantRule rule, ScaleFormat format, float amax) {
  const float floor = rule == QuantRule::kv_cache                                         ? 0.0f
                      : rule == QuantRule::per_token_group || rule == QuantRule::silu_mul ? 1e-10f
                                                                                          : 1e-4f;
  if (amax < floor) amax = floor;
  const float scale = amax / 448.0f;
  if (format == ScaleFormat::ue8m0) {
    const float power = ceil_to_ue8m0(scale);
    return {power, 1.0f / power};  // 1 / 2^e is exact, so x * factor = x / scale
  }
  switch (rule) {
    case QuantRule::per_token_group:
    case QuantRule::per_token_cast:
      return {scale, 448.0f / amax};
    case QuantRule::indexer:
      return {scale, scale, true};
    default:
      break;
  }
  const float factor = 1.0f / scale;
  if (factor > std::numeric_limits<float>::max()) return {0.0f, 0.0f};  // only without a floor
  return {scale, factor};
}

/// The same for a 128 x 128 block of a weight: floor 1e-4, x * (1/s).
inline GroupScale block_scale(ScaleFormat format, float amax) {
  const float scale = (amax < 1e-4f ? 1e-4f : amax) / 448.0f;
  const float stored = format == ScaleFormat::ue8m0 ? ceil_to_ue8m0(scale) : scale;
  return {stored, 1.0f / stored};
}

/// Quantises one group of n values, `load(i)` gives value i. Returns the stored scale.
template <class Load>
float quantize_group(QuantRule rule, ScaleFormat format, std::int64_t n, const Load& load, std::uint8_t* q) {
  float amax = 0;
  for (std::int64_t i = 0; i < n; ++i) amax = update_amax(amax, load(i));
  const GroupScale group = group_scale(rule, format, amax);
  for (std::int64_t i = 0; i < n; ++i) q[i] = group.quantize(load(i));
  return group.scale;
}

/// The same for a whole group of 128 f32 or bf16 values: what vector code falls back to for NaN and infinity.
float quantize_group_of(QuantRule rule, ScaleFormat format, const float* x, std::uint8_t* q);
float quantize_group_of(QuantRule rule, ScaleFormat format, const std::uint16_t* x, std::uint8_t* q);

/// Writes scales of a [rows, groups] matrix in any layout.
class ScaleWriter {
 public:
  /// `scale` is 2-D, or 3-D with `matrix` naming the one of axis 0.
  ScaleWriter(const TensorView& scale, ScaleLayout layout, std::int64_t groups, std::int64_t matrix = 0)
      : data_(static_cast<std::byte*>(scale.data)),
        packed_(layout == ScaleLayout::packed_ue8m0),
        groups_(groups),
        row_step_(scale.step(scale.rank - 2)),
        column_step_(scale.step(scale.rank - 1)) {
    if (scale.rank == 3 && data_ != nullptr) data_ += matrix * scale.step(0) * 4;
  }

  void write(std::int64_t row, std::int64_t group, float scale) const {
    if (!packed_) {
      reinterpret_cast<float*>(data_)[row * row_step_ + group * column_step_] = scale;
      return;
    }
    std::byte* word = data_ + 4 * (row * row_step_ + group / 4 * column_step_);
    word[group % 4] = static_cast<std::byte>(std::bit_cast<std::uint32_t>(scale) >> 23);
    if (group + 1 == groups_) {
      for (std::int64_t j = groups_; j % 4 != 0; ++j) word[j % 4] = std::byte{0};
    }
  }

 private:
  std::byte* data_;
  bool packed_;
  std::int64_t groups_;
  std::int64_t row_step_;
  std::int64_t column_step_;
};

/// Matrix `index` of [batch, rows, columns], or the 2-D tensor itself.
inline TensorView matrix_of(TensorView tensor, std::int64_t index) {
  if (tensor.rank == 2) return tensor;
  if (tensor.data != nullptr) {  // null if empty
    tensor.data = static_cast<std::byte*>(tensor.data) + index * tensor.step(0) * size_of(tensor.dtype);
  }
  tensor.rank = 2;
  tensor.shape = {tensor.size(1), tensor.size(2)};
  tensor.stride = {tensor.step(1), tensor.step(2)};
  return tensor;
}

/// Checks a scale argument of [rows, groups], or [batch, rows, groups] if batch is not negative, against its
/// layout and format.
void expect_scale(const Expect& expect, std::string_view argument, const TensorView& scale,
                  ScaleFormat format, ScaleLayout layout, std::int64_t rows, std::int64_t groups,
                  std::int64_t batch = -1);

}  // namespace fathom
