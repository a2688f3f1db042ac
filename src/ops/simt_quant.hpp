// What the general CUDA kernels of rows and groups of 128 need of tensors. See kernels/simt/group_quant.cuh.
#pragma once
#include <algorithm>
#include <cstdint>
#include <limits>

#include "fathom/ops/quantization.hpp"
#include "layout/group_quant.cuh"

namespace fathom {

/// Of a validated scale: [rows, groups] or [matrices, rows, groups].
inline ScaleTarget scale_target(const TensorView& scale, ScaleLayout layout, std::int64_t groups) {
  return {.data = scale.data,
          .matrix_stride = scale.rank == 3 ? scale.step(0) : 0,
          .row_stride = scale.step(scale.rank - 2),
          .column_stride = scale.step(scale.rank - 1),
          .groups = groups,
          .packed = layout == ScaleLayout::packed_ue8m0};
}

/// True if every row of the tensor starts at a multiple of 16 bytes.
inline bool rows_on_16_bytes(const TensorView& tensor) {
  bool fits = reinterpret_cast<std::uintptr_t>(tensor.data) % 16 == 0;
  for (int axis = 0; axis + 1 < tensor.rank; ++axis) {
    fits = fits && (tensor.size(axis) <= 1 || tensor.step(axis) * size_of(tensor.dtype) % 16 == 0);
  }
  return fits;
}

/// Blocks that do `each` of `items`, as far as a grid reaches.
inline unsigned grid_for(std::int64_t items, std::int64_t each) {
  constexpr std::int64_t kMostBlocks = std::numeric_limits<std::int32_t>::max();
  return static_cast<unsigned>(std::min((items + each - 1) / each, kMostBlocks));
}

}  // namespace fathom
