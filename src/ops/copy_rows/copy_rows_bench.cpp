#include "bench.hpp"
#include "fathom/ops/copy_rows.hpp"

namespace fathom {

BenchCase copy_rows_bench(std::string_view text, const Context& context) {
  auto problem = parse_problem<CopyRowsProblem>(text);
  problem.selected = false;  // a selection costs the same
  const auto x = bench_normal(problem.x, {problem.tokens, problem.heads, problem.dim});
  const auto out = bench_normal(problem.out, {problem.tokens, problem.heads, problem.dim});
  return {.problem = problem_string(problem),
          .bytes = static_cast<double>(x->size() + (problem.accumulate ? 2 : 1) * out->size()),
          .flops = 0,
          .run = [=, &context](std::int64_t) {
            copy_rows({.x = x->view(problem.x, {problem.tokens, problem.heads, problem.dim}),
                       .out = out->view(problem.out, {problem.tokens, problem.heads, problem.dim}),
                       .accumulate = problem.accumulate},
                      context);
          }};
}

}  // namespace fathom
