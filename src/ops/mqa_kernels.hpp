// Calls of mqa_logits and paged_mqa_logits as their kernels take them, general and Hopper's.
#pragma once
#include "fathom/ops/mqa_logits.hpp"
#include "fathom/ops/paged_mqa_logits.hpp"
#include "layout/mqa.cuh"
#include "ops/cache_kernels.hpp"
#include "ops/paged_mqa_logits/paged_mqa_logits_impl.hpp"
#include "ops/simt_kernel.hpp"

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

inline MqaLogitsKernel mqa_logits_kernel(const MqaLogitsProblem& problem, const MqaLogitsArgs& args) {
  return {.q = mqa_queries(args.q, args.weights),
          .k = args.k.data,
          .k_row = args.k.step(0),
          .k_scale = args.k_scale.as<const float>(),
          .first = simt_integers(args.first),
          .last = simt_integers(args.last),
          .logits = args.logits.as<float>(),
          .logits_row = args.logits.step(0),
          .keys = problem.keys};
}
inline PagedMqaLogitsKernel paged_mqa_logits_kernel(const PagedMqaLogitsProblem& problem,
                                                    const PagedMqaLogitsArgs& args) {
  const TensorView lens = paged_mqa_lens(problem, args);
  return {.q = mqa_queries(args.q, args.weights),
          .cache = index_cache_view(args.cache, problem.head_dim),
          .block_table = block_table_view(paged_mqa_table(problem, args)),
          .context_lens = lens.as<const int>(),
          .lens_row = lens.step(0),
          .lens_step = lens.step(1),
          .logits = args.logits.as<float>(),
          .logits_row = args.logits.step(0),
          .max_len = problem.max_len};
}

}  // namespace fathom
