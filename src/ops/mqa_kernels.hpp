// Queries of the indexer as the kernels take them.
#pragma once
#include "fathom/core/tensor.hpp"
#include "layout/mqa.cuh"

namespace fathom {

/// q [tokens, heads, dim] or [batch, next_n, heads, dim], weights [rows, heads].
inline MqaQueries mqa_queries(const TensorView& q, const TensorView& weights) {
  const bool paged = q.rank == 4;
  return {.data = q.data,
          .request = q.step(0),
          .token = q.step(paged ? 1 : 0),
          .head = q.step(q.rank - 2),
          .weights = weights.as<const float>(),
          .weights_row = weights.step(0),
          .rows = weights.size(0),
          .next_n = paged ? q.size(1) : 1,
          .heads = q.size(q.rank - 2),
          .dim = q.size(q.rank - 1)};
}

}  // namespace fathom
