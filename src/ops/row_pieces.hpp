// Chains of ops over rows: a piece of the rows goes through the whole chain while it is in a core's cache.
#pragma once
#include <algorithm>

#include "fathom/core/buffer.hpp"
#include "fathom/core/context.hpp"
#include "fathom/core/tensor.hpp"

namespace fathom {

/// Calls chain(first, last, scratch) for pieces of [0, rows) on the context's threads. `scratch` is room for
/// `width` floats a row of the piece. A piece is small enough for the ops in it not to be shared out again.
template <class Chain>
void for_row_pieces(std::int64_t rows, std::int64_t width, const Context& context, const Chain& chain) {
  constexpr std::int64_t kElementsPerTask = 1 << 15;
  constexpr std::int64_t kPiece = 4096;
  constexpr std::int64_t kOnStack = 16384;  // floats; wider rows are paid for with an allocation
  width = std::max<std::int64_t>(width, 1);
  const std::int64_t piece = std::max<std::int64_t>(1, kPiece / width);
  context.parallel_for(rows, kElementsPerTask / width, [&](std::int64_t begin, std::int64_t end) {
    alignas(64) float stack[kOnStack];
    const Buffer heap = width > kOnStack ? Buffer(width * size_of(DType::f32)) : Buffer();
    float* scratch = width > kOnStack ? reinterpret_cast<float*>(heap.data()) : stack;
    for (std::int64_t first = begin; first < end; first += piece) {
      chain(first, std::min(end, first + piece), scratch);
    }
  });
}

/// f32 [rows, dim] of scratch.
inline TensorView scratch_rows(float* scratch, std::int64_t rows, std::int64_t dim) {
  return TensorView::contiguous(scratch, DType::f32, {rows, dim});
}

/// Columns of [rows, dim] as one head: [rows, 1, dim].
inline TensorView one_head(TensorView x) {
  x.rank = 3;
  x.shape = {x.size(0), 1, x.size(1)};
  x.stride = {x.step(0), x.size(2), 1};
  return x;
}

}  // namespace fathom
