// The bench of moe_route.
#include "bench.hpp"
#include "fathom/ops/moe_route.hpp"

namespace fathom {

BenchCase moe_route_bench(std::string_view text, const Context& context) {
  const auto problem = parse_problem<MoeRouteProblem>(text);
  const auto logits = bench_normal(DType::f32, {problem.tokens, problem.experts});
  const auto bias = bench_normal(DType::f32, {problem.experts}, 0.1);
  const auto ids = bench_buffer(problem.tokens * problem.top_k * size_of(DType::i32));
  const auto weights = bench_buffer(problem.tokens * problem.top_k * size_of(DType::f32));
  return {.problem = problem_string(problem),
          .bytes = static_cast<double>(logits->size() + bias->size() + ids->size() + weights->size()),
          .flops = 0,
          .run = [=, &context](std::int64_t) {
            moe_route(
                {.logits = logits->view(DType::f32, {problem.tokens, problem.experts}),
                 .correction_bias = problem.bias ? bias->view(DType::f32, {problem.experts}) : TensorView{},
                 .n_group = problem.n_group,
                 .topk_group = problem.topk_group,
                 .scoring = problem.scoring,
                 .renormalize = problem.renormalize,
                 .routed_scaling = 2.5f,
                 .ids = ids->view(DType::i32, {problem.tokens, problem.top_k}),
                 .weights = weights->view(DType::f32, {problem.tokens, problem.top_k})},
                context);
          }};
}

}  // namespace fathom
