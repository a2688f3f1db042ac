#include "ops/mla_prepare/mla_prepare_impl.hpp"
#include "ops/row_pieces.hpp"

namespace fathom {

void mla_prepare_cpu(const MlaPrepareProblem& problem, const MlaPrepareArgs& args, const Context& context) {
  const MlaSteps steps{rms_norm_cpu, copy_rows_cpu, rope_cpu, mla_cache_store_cpu};
  for_row_pieces(problem.tokens, problem.lora + problem.rope_dim, context,
                 [&](std::int64_t first, std::int64_t last, float* scratch) {
                   mla_key_chain(steps, problem, args, context, first, last, scratch);
                 });
  if (problem.heads == 0) return;
  for_row_pieces(problem.tokens, problem.heads * problem.rope_dim, context,
                 [&](std::int64_t first, std::int64_t last, float* scratch) {
                   mla_query_chain(steps, problem, args, context, first, last, scratch);
                 });
}

}  // namespace fathom
