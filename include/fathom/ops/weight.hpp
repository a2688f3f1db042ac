// A matrix with the scales of its blocks.
#pragma once
#include "fathom/core/tensor.hpp"

namespace fathom {

/// A matrix as a checkpoint stores it.
struct Weight {
  TensorView values;  ///< [n, k] f8e4m3, bf16 or f32
  TensorView scale;   ///< [ceil(n/128), ceil(k/128)] f32, given if values are f8e4m3: weight = value * scale
};

}  // namespace fathom
