#include "bench.hpp"
#include "fathom/ops/hadamard.hpp"

namespace fathom {

BenchCase hadamard_bench(std::string_view text, const Context& context) {
  const auto problem = parse_problem<HadamardProblem>(text);
  const auto x = bench_normal(problem.x, {problem.rows, problem.dim});
  const auto out = bench_normal(problem.out, {problem.rows, problem.dim});
  return {.problem = problem_string(problem),
          .bytes = static_cast<double>(x->size() + out->size()),
          .run = [=, &context](std::int64_t) {
            hadamard({.x = x->view(problem.x, {problem.rows, problem.dim}),
                      .out = out->view(problem.out, {problem.rows, problem.dim})},
                     context);
          }};
}

}  // namespace fathom
