#include <algorithm>
#include <vector>

#include "ops/mla_prepare/mla_prepare_impl.hpp"
#include "ops/row_pieces.hpp"

namespace fathom {

void mla_key_chain(const MlaSteps& steps, const MlaPrepareProblem& problem, const MlaPrepareArgs& args,
                   const Context& context, std::int64_t first, std::int64_t last, float* scratch) {
  const std::int64_t rows = last - first;
  const TensorView latent = scratch_rows(scratch, rows, problem.lora);
  const TensorView rope = scratch_rows(scratch + rows * problem.lora, rows, problem.rope_dim);
  steps.rms_norm(
      {.tokens = rows, .dim = problem.lora, .x = problem.kv, .weight = problem.weight},
      {.x = args.latent.rows(first, last), .weight = args.weight, .out = latent, .epsilon = args.epsilon},
      context);
  steps.copy({.tokens = rows, .dim = problem.rope_dim, .x = problem.kv},
             {.x = args.rope.rows(first, last), .rows = {}, .out = rope}, context);
  steps.rope({.tokens = rows,
              .heads = 1,
              .dim = problem.rope_dim,
              .rope_dim = problem.rope_dim,
              .offset = 0,
              .style = problem.style},
             {one_head(rope), args.positions.rows(first, last), args.cos_sin, /*offset=*/0, problem.style},
             context);
  steps.store({.tokens = rows,
               .lora = problem.lora,
               .rope_dim = problem.rope_dim,
               .slots = problem.slots,
               .cache = problem.cache},
              {.latent = latent, .rope = rope, .slots = args.slots.rows(first, last), .cache = args.cache},
              context);
}

void mla_query_chain(const MlaSteps& steps, const MlaPrepareProblem& problem, const MlaPrepareArgs& args,
                     const Context& context, std::int64_t first, std::int64_t last, float* scratch) {
  const std::int64_t rows = last - first;
  const std::int64_t dim = problem.rope_dim;
  const TensorView q = TensorView::contiguous(scratch, DType::f32, {rows, problem.heads, dim});
  CopyRowsProblem copy{.tokens = rows, .heads = problem.heads, .dim = dim, .x = problem.q};
  steps.copy(copy, {.x = args.q.rows(first, last), .rows = {}, .out = q}, context);
  steps.rope({.tokens = rows,
              .heads = problem.heads,
              .dim = dim,
              .rope_dim = dim,
              .offset = 0,
              .style = problem.style},
             {q, args.positions.rows(first, last), args.cos_sin, /*offset=*/0, problem.style}, context);
  copy.x = DType::f32;
  copy.out = problem.q_out;
  steps.copy(copy, {.x = q, .rows = {}, .out = args.q_out.rows(first, last)}, context);
}

void mla_prepare_ref(const MlaPrepareProblem& problem, const MlaPrepareArgs& args, const Context& context) {
  const std::int64_t width = std::max(problem.lora + problem.rope_dim, problem.heads * problem.rope_dim);
  std::vector<float> scratch(static_cast<std::size_t>(problem.tokens * width));
  const MlaSteps steps{rms_norm_ref, copy_rows_ref, rope_ref, mla_cache_store_ref};
  mla_key_chain(steps, problem, args, context, 0, problem.tokens, scratch.data());
  if (problem.heads > 0) mla_query_chain(steps, problem, args, context, 0, problem.tokens, scratch.data());
}

}  // namespace fathom
