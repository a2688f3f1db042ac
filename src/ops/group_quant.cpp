#include "ops/group_quant.hpp"

#include <string>

namespace fathom {

float quantize_group_of(QuantRule rule, ScaleFormat format, const float* x, std::uint8_t* q) {
  return quantize_group(
      rule, format, kQuantGroup, [x](std::int64_t i) { return x[i]; }, q);
}

float quantize_group_of(QuantRule rule, ScaleFormat format, const std::uint16_t* x, std::uint8_t* q) {
  return quantize_group(
      rule, format, kQuantGroup, [x](std::int64_t i) { return bf16_to_float(x[i]); }, q);
}

void expect_scale(const Expect& expect, std::string_view argument, const TensorView& scale,
                  ScaleFormat format, ScaleLayout layout, std::int64_t rows, std::int64_t groups,
                  std::int64_t batch) {
  const bool packed = layout == ScaleLayout::packed_ue8m0;
  if (packed && format != ScaleFormat::ue8m0)
    expect.fail("scale_format", "be ue8m0 for packed_ue8m0 scales", "f32");
  const std::int64_t columns = packed ? (groups + 3) / 4 : groups;
  expect.dtype(argument, scale, {packed ? DType::i32 : DType::f32});
  if (batch < 0) {
    expect.shape(argument, scale, {rows, columns});
  } else {
    expect.shape(argument, scale, {batch, rows, columns});
  }
  expect.on_device(argument, scale);
  if (scale.data == nullptr && scale.count() > 0) expect.fail(argument, "have data", "a null pointer");
  const std::int64_t row_step = scale.step(scale.rank - 2);
  const std::int64_t column_step = scale.step(scale.rank - 1);
  if (layout == ScaleLayout::row_major) {
    expect.unit_stride(argument, scale);
    if (rows > 1 && row_step < columns) {
      expect.fail(argument, "have rows at least " + std::to_string(columns) + " apart",
                  std::to_string(row_step));
    }
    return;
  }
  if (rows > 1 && row_step != 1) {
    expect.fail(argument, "have row stride 1 (" + std::string(to_string(layout)) + ")",
                std::to_string(row_step));
  }
  const bool aligned = layout != ScaleLayout::column_major;
  if (columns > 1 && (column_step < rows || (aligned && column_step % 4 != 0))) {
    expect.fail(argument,
                "have a column stride of at least " + std::to_string(rows) +
                    (aligned ? " that is a multiple of 4" : ""),
                std::to_string(column_step));
  }
}

}  // namespace fathom
