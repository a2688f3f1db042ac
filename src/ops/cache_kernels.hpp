// The paged caches and block tables as the kernels over them take them.
#pragma once
#include "fathom/core/tensor.hpp"
#include "layout/cache.cuh"

namespace fathom {

inline IndexCacheView index_cache_view(const TensorView& cache) {
  const bool f32 = cache.dtype == DType::f32;
  return {.data = cache.data,
          .page = cache.step(0),
          .key = f32 ? cache.step(1) : kIndexKeyBytes,
          .pages = cache.size(0),
          .f32 = f32};
}
inline BlockTable block_table_view(const TensorView& table) {
  return {.data = table.as<const int>(),
          .row = table.step(0),
          .step = table.step(1),
          .rows = table.size(0),
          .pages = table.size(1)};
}

}  // namespace fathom
