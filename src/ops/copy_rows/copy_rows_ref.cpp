#include "ops/copy_rows/copy_rows_impl.hpp"
#include "ops/elements.hpp"

namespace fathom {

void copy_rows_ref(const CopyRowsProblem& problem, const CopyRowsArgs& args, const Context&) {
  for (std::int64_t t = 0; t < problem.tokens; ++t) {
    for (std::int64_t h = 0; h < problem.heads; ++h) {
      const std::int64_t from = copy_rows_source(args, t) * args.x.step(0) + h * copy_rows_head_step(args.x);
      const std::int64_t to = t * args.out.step(0) + h * copy_rows_head_step(args.out);
      for (std::int64_t d = 0; d < problem.dim; ++d) {
        const float value = load_element(args.x.data, problem.x, from + d);
        const float sum =
            problem.accumulate ? load_element(args.out.data, problem.out, to + d) + value : value;
        store_element(args.out.data, problem.out, to + d, sum);
      }
    }
  }
}

}  // namespace fathom
