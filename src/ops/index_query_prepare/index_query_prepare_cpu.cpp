#include "ops/index_query_prepare/index_query_prepare_impl.hpp"
#include "ops/row_pieces.hpp"

namespace fathom {

void index_query_prepare_cpu(const IndexQueryPrepareProblem& problem, const IndexQueryPrepareArgs& args,
                             const Context& context) {
  for_row_pieces(problem.tokens, problem.heads * (problem.dim + 1), context,
                 [&](std::int64_t first, std::int64_t last, float* scratch) {
                   for (std::int64_t t = first; t < last; ++t) {
                     index_query_chain({copy_rows_cpu, rope_cpu, hadamard_cpu, quantize_groups_cpu}, problem,
                                       args, context, t, scratch);
                   }
                 });
}

}  // namespace fathom
