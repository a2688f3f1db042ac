// The bench of layer_norm.
#include "bench.hpp"
#include "fathom/ops/layer_norm.hpp"

namespace fathom {

BenchCase layer_norm_bench(std::string_view text, const Context& context) {
  const auto problem = parse_problem<LayerNormProblem>(text);
  const auto x = bench_normal(problem.x, {problem.tokens, problem.dim});
  const auto weight = bench_normal(problem.weight, {problem.dim});
  const auto bias = bench_normal(problem.weight, {problem.dim});
  const auto out = bench_normal(problem.out, {problem.tokens, problem.dim});
  return {.problem = problem_string(problem),
          .bytes = static_cast<double>(x->size() + weight->size() + bias->size() + out->size()),
          .flops = 7.0 * static_cast<double>(problem.tokens * problem.dim),
          .run = [=, &context](std::int64_t) {
            layer_norm({.x = x->view(problem.x, {problem.tokens, problem.dim}),
                        .weight = weight->view(problem.weight, {problem.dim}),
                        .bias = bias->view(problem.weight, {problem.dim}),
                        .out = out->view(problem.out, {problem.tokens, problem.dim})},
                       context);
          }};
}

}  // namespace fathom
