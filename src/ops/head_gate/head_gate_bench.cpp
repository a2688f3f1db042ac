#include "bench.hpp"
#include "fathom/ops/head_gate.hpp"

namespace fathom {

BenchCase head_gate_bench(std::string_view text, const Context& context) {
  const auto problem = parse_problem<HeadGateProblem>(text);
  const std::int64_t tokens = problem.tokens;
  const std::int64_t heads = problem.heads;
  const std::int64_t hidden = problem.hidden;
  const auto x = bench_normal(problem.x, {tokens, hidden});
  const auto w = bench_normal(problem.w, {heads, hidden});
  const auto q_scale = bench_normal(DType::f32, {tokens, heads});
  const auto out = bench_normal(DType::f32, {tokens, heads});
  return {.problem = problem_string(problem),
          .bytes = static_cast<double>(x->size() + w->size() + q_scale->size() + out->size()),
          .flops = 2.0 * static_cast<double>(tokens * heads * hidden),
          .run =
              [=, &context](std::int64_t) {
                head_gate(
                    {.x = x->view(problem.x, {tokens, hidden}),
                     .w = w->view(problem.w, {heads, hidden}),
                     .q_scale = problem.q_scale ? q_scale->view(DType::f32, {tokens, heads}) : TensorView{},
                     .out = out->view(DType::f32, {tokens, heads}),
                     .softmax_scale = 0.1f,
                     .decode = problem.decode},
                    context);
              },
          .product = {}};
}

}  // namespace fathom
