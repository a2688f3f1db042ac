#include "ops/index_key_prepare/index_key_prepare_impl.hpp"
#include "ops/row_pieces.hpp"

namespace fathom {

void index_key_prepare_cpu(const IndexKeyPrepareProblem& problem, const IndexKeyPrepareArgs& args,
                           const Context& context) {
  for_row_pieces(problem.tokens, problem.dim, context,
                 [&](std::int64_t first, std::int64_t last, float* scratch) {
                   index_key_chain({layer_norm_cpu, rope_cpu, hadamard_cpu, index_key_store_cpu}, problem,
                                   args, context, first, last, scratch);
                 });
}

}  // namespace fathom
