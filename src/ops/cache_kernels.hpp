// The paged caches and block tables as the kernels over them take them.
#pragma once
#include <string>

#include "fathom/core/tensor.hpp"
#include "fathom/ops/index_key_store.hpp"
#include "layout/cache.cuh"

namespace fathom {

/// What kernels over a cache of index keys are compiled for.
struct IndexCachePlan {
  std::int32_t page;  // tokens
  std::int32_t dim;   // of the keys of a u8 cache; those of another one may have any

  bool of_the_model() const { return page == kIndexKeyPageTokens && dim == kIndexKeyDim; }
  /// The end of the kernel's name.
  std::string suffix() const {
    return of_the_model() ? "" : "_p" + std::to_string(page) + "_d" + std::to_string(dim);
  }
  std::string template_arguments() const { return std::to_string(page) + ", " + std::to_string(dim); }
};
inline IndexCachePlan index_cache_plan(std::int64_t page, std::int64_t dim, bool f32) {
  return {static_cast<std::int32_t>(page), static_cast<std::int32_t>(f32 ? kIndexKeyDim : dim)};
}

inline IndexCacheView index_cache_view(const TensorView& cache, std::int64_t dim) {
  const bool f32 = cache.dtype == DType::f32;
  return {.data = cache.data,
          .page = cache.step(0),
          .key = f32 ? cache.step(1) : dim,
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
