#include "bench.hpp"
#include "fathom/ops/scale.hpp"

namespace fathom {

// [doc:begin bench]
BenchCase scale_bench(std::string_view text, const Context& context) {
  const auto problem = parse_problem<ScaleProblem>(text);
  const auto x = bench_normal(problem.dtype, {problem.rows, problem.dim});
  const auto out = bench_normal(problem.dtype, {problem.rows, problem.dim});
  return {.problem = problem_string(problem),
          .bytes = static_cast<double>(x->size() + out->size()),
          .flops = static_cast<double>(problem.rows * problem.dim),
          .run = [=, &context](std::int64_t) {
            scale({.x = x->view(problem.dtype, {problem.rows, problem.dim}),
                   .out = out->view(problem.dtype, {problem.rows, problem.dim}),
                   .factor = 1.7f},
                  context);
          }};
}
// [doc:end bench]

}  // namespace fathom
