#include "bench.hpp"
#include "fathom/ops/silu_mul.hpp"

namespace fathom {

BenchCase silu_mul_bench(std::string_view text, const Context& context) {
  const auto problem = parse_problem<SiluMulProblem>(text);
  const auto gate_up = bench_normal(problem.gate_up, {problem.rows, 2 * problem.dim}, 3);
  const auto out = bench_normal(problem.out, {problem.rows, problem.dim});
  std::optional<float> limit;
  if (problem.clamp) limit = 10.0f;
  return {.problem = problem_string(problem),
          .bytes = static_cast<double>(gate_up->size() + out->size()),
          .run = [=, &context](std::int64_t) {
            silu_mul({.gate_up = gate_up->view(problem.gate_up, {problem.rows, 2 * problem.dim}),
                      .out = out->view(problem.out, {problem.rows, problem.dim}),
                      .clamp_limit = limit},
                     context);
          }};
}

}  // namespace fathom
