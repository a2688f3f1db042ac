// Reads and writes single elements of any float dtype: for references and for the edges of fast loops.
#pragma once
#include "fathom/core/tensor.hpp"

namespace fathom {

inline float load_element(const void* data, DType dtype, std::int64_t index) {
  switch (dtype) {
    case DType::f32:
      return static_cast<const float*>(data)[index];
    case DType::bf16:
      return bf16_to_float(static_cast<const std::uint16_t*>(data)[index]);
    case DType::f16:
      return f16_to_float(static_cast<const std::uint16_t*>(data)[index]);
    case DType::f8e4m3:
      return f8e4m3_to_float(static_cast<const std::uint8_t*>(data)[index]);
    default:
      __builtin_unreachable();  // validate() admits float dtypes only
  }
}

/// Rounds to the dtype: f32, bf16 (nearest even) or f8e4m3 (nearest even, saturating).
inline void store_element(void* data, DType dtype, std::int64_t index, float value) {
  switch (dtype) {
    case DType::f32:
      static_cast<float*>(data)[index] = value;
      return;
    case DType::bf16:
      static_cast<std::uint16_t*>(data)[index] = float_to_bf16(value);
      return;
    case DType::f8e4m3:
      static_cast<std::uint8_t*>(data)[index] = float_to_f8e4m3(value);
      return;
    default:
      __builtin_unreachable();
  }
}

inline float at(const TensorView& t, std::int64_t i) { return load_element(t.data, t.dtype, i * t.step(0)); }
inline float at(const TensorView& t, std::int64_t i, std::int64_t j) {
  return load_element(t.data, t.dtype, i * t.step(0) + j * t.step(1));
}
inline float at(const TensorView& t, std::int64_t i, std::int64_t j, std::int64_t k) {
  return load_element(t.data, t.dtype, i * t.step(0) + j * t.step(1) + k * t.step(2));
}
inline void put(const TensorView& t, std::int64_t i, std::int64_t j, float value) {
  store_element(t.data, t.dtype, i * t.step(0) + j * t.step(1), value);
}

}  // namespace fathom
