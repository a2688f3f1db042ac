#include "bench.hpp"
#include "fathom/ops/quantize_groups.hpp"

namespace fathom {

BenchCase quantize_groups_bench(std::string_view text, const Context& context) {
  const auto problem = parse_problem<QuantizeGroupsProblem>(text);
  const std::int64_t groups = scale_groups(problem.k);
  const auto x = bench_normal(problem.x, {problem.tokens, problem.k});
  const auto q = bench_buffer(problem.tokens * problem.k);
  const auto scale = bench_buffer(scale_bytes(problem.scale_layout, problem.tokens, groups));
  return {.problem = problem_string(problem),
          .bytes = static_cast<double>(x->size() + q->size() + scale->size()),
          .run = [=, &context](std::int64_t) {
            quantize_groups(
                {.x = x->view(problem.x, {problem.tokens, problem.k}),
                 .q = q->view(DType::f8e4m3, {problem.tokens, problem.k}),
                 .scale = scale->place(scale_view(nullptr, problem.scale_layout, problem.tokens, groups)),
                 .rule = problem.rule,
                 .scale_format = problem.scale_format,
                 .scale_layout = problem.scale_layout},
                context);
          }};
}

}  // namespace fathom
