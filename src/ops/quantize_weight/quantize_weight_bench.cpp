#include "bench.hpp"
#include "fathom/ops/quantize_weight.hpp"

namespace fathom {

BenchCase quantize_weight_bench(std::string_view text, const Context& context) {
  const auto problem = parse_problem<QuantizeWeightProblem>(text);
  const std::int64_t experts = problem.experts > 0 ? problem.experts : 1;
  const std::int64_t n_blocks = scale_groups(problem.n);
  const std::int64_t k_blocks = scale_groups(problem.k);
  const auto w = bench_normal(problem.w, {experts, problem.n, problem.k}, 0.02);
  const auto q = bench_buffer(experts * problem.n * problem.k);
  const auto scale = bench_buffer(experts * n_blocks * k_blocks * 4);
  return {.problem = problem_string(problem),
          .bytes = static_cast<double>(w->size() + q->size() + scale->size()),
          .run = [=, &context](std::int64_t) {
            quantize_weight({.w = w->view(problem.w, {experts, problem.n, problem.k}),
                             .q = q->view(DType::f8e4m3, {experts, problem.n, problem.k}),
                             .scale = scale->view(DType::f32, {experts, n_blocks, k_blocks}),
                             .scale_format = problem.scale_format},
                            context);
          }};
}

}  // namespace fathom
