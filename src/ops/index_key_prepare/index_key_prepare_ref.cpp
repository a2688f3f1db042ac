#include <vector>

#include "ops/index_key_prepare/index_key_prepare_impl.hpp"
#include "ops/row_pieces.hpp"

namespace fathom {

void index_key_chain(const IndexKeySteps& steps, const IndexKeyPrepareProblem& problem,
                     const IndexKeyPrepareArgs& args, const Context& context, std::int64_t first,
                     std::int64_t last, float* scratch) {
  const std::int64_t rows = last - first;
  const TensorView k = scratch_rows(scratch, rows, problem.dim);
  steps.layer_norm({.tokens = rows, .dim = problem.dim, .x = problem.k, .weight = problem.weight},
                   {.x = args.k.rows(first, last),
                    .weight = args.weight,
                    .bias = args.bias,
                    .out = k,
                    .epsilon = args.epsilon},
                   context);
  steps.rope({.tokens = rows,
              .heads = 1,
              .dim = problem.dim,
              .rope_dim = problem.rope_dim,
              .offset = problem.offset,
              .style = problem.style},
             {.x = one_head(k),
              .positions = args.positions.rows(first, last),
              .cos_sin = args.cos_sin,
              .offset = problem.offset,
              .style = problem.style},
             context);
  if (problem.hadamard) steps.hadamard({.rows = rows, .dim = problem.dim}, {.x = k, .out = k}, context);
  steps.store({.tokens = rows,
               .dim = problem.dim,
               .slots = problem.slots,
               .cache = problem.cache,
               .ue8m0 = problem.ue8m0,
               .page = problem.page},
              {.k = k, .slots = args.slots.rows(first, last), .cache = args.cache, .ue8m0 = problem.ue8m0},
              context);
}

void index_key_prepare_ref(const IndexKeyPrepareProblem& problem, const IndexKeyPrepareArgs& args,
                           const Context& context) {
  std::vector<float> scratch(static_cast<std::size_t>(problem.tokens * problem.dim));
  index_key_chain({layer_norm_ref, rope_ref, hadamard_ref, index_key_store_ref}, problem, args, context, 0,
                  problem.tokens, scratch.data());
}

}  // namespace fathom
