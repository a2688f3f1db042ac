// The bench of rope.
#include "bench.hpp"
#include "fathom/ops/rope.hpp"

namespace fathom {

BenchCase rope_bench(std::string_view text, const Context& context) {
  const auto problem = parse_problem<RopeProblem>(text);
  const auto x = bench_normal(problem.x, {problem.tokens, problem.heads, problem.dim});
  const auto positions = bench_buffer(problem.tokens * size_of(DType::i64));
  for (std::int64_t t = 0; t < problem.tokens; ++t) reinterpret_cast<std::int64_t*>(positions->data())[t] = t;
  const Buffer made = make_rope_table({.dim = problem.rope_dim}, problem.tokens);
  const auto table = bench_buffer(made.size());
  table->repeat({made.data(), static_cast<std::size_t>(made.size())});
  const auto pairs = static_cast<double>(problem.tokens * problem.heads * problem.rope_dim / 2);
  return {.problem = problem_string(problem),
          .bytes = 4 * pairs * static_cast<double>(size_of(problem.x)) + static_cast<double>(table->size()),
          .flops = 6 * pairs,
          .run = [=, &context](std::int64_t) {
            rope({.x = x->view(problem.x, {problem.tokens, problem.heads, problem.dim}),
                  .positions = positions->view(DType::i64, {problem.tokens}),
                  .cos_sin = table->view(DType::f32, {problem.tokens, problem.rope_dim}),
                  .offset = problem.offset,
                  .style = problem.style},
                 context);
          }};
}

}  // namespace fathom
