#include "bench.hpp"
#include "fathom/ops/requantize_weight.hpp"

namespace fathom {

BenchCase requantize_weight_bench(std::string_view text, const Context& context) {
  const auto problem = parse_problem<RequantizeWeightProblem>(text);
  const std::int64_t experts = problem.experts > 0 ? problem.experts : 1;
  const std::int64_t n_blocks = scale_groups(problem.n);
  const std::int64_t k_blocks = scale_groups(problem.k);
  const auto w = bench_normal(DType::f8e4m3, {experts, problem.n, problem.k}, 100);
  const auto w_scale = bench_normal(DType::f32, {experts, n_blocks, k_blocks}, 1e-4);
  const auto q = bench_buffer(w->size());
  const auto scale = bench_buffer(w_scale->size());
  return {.problem = problem_string(problem),
          .bytes = 2 * static_cast<double>(w->size() + w_scale->size()),
          .run = [=, &context](std::int64_t) {
            requantize_weight({.w = w->view(DType::f8e4m3, {experts, problem.n, problem.k}),
                               .w_scale = w_scale->view(DType::f32, {experts, n_blocks, k_blocks}),
                               .q = q->view(DType::f8e4m3, {experts, problem.n, problem.k}),
                               .scale = scale->view(DType::f32, {experts, n_blocks, k_blocks})},
                              context);
          }};
}

}  // namespace fathom
