#include "bench.hpp"
#include "fathom/ops/fp8_linear.hpp"

namespace fathom {

BenchCase fp8_linear_bench(std::string_view text, const Context& context) {
  const auto problem = parse_problem<Fp8LinearProblem>(text);
  const std::int64_t m = problem.m;
  const std::int64_t n = problem.n;
  const std::int64_t k = problem.k;
  const std::int64_t groups = scale_groups(k);
  const std::int64_t copies = cold_copies(n * k);
  const auto x = bench_normal(problem.x, {m, k});
  const auto w = bench_normal(DType::f8e4m3, {copies * n, k});
  const auto w_scale = bench_normal(DType::f32, {scale_groups(n), groups});
  const auto q = bench_normal(DType::f8e4m3, {m, k});
  const auto q_scale = bench_normal(DType::f32, {m, groups});
  const auto out = bench_normal(problem.out, {m, n});
  return {
      .problem = problem_string(problem),
      .bytes = static_cast<double>(x->size() + n * k + w_scale->size() + out->size()),
      .flops = 2.0 * static_cast<double>(m * n) * static_cast<double>(k),
      .arithmetic = DType::f8e4m3,
      .run =
          [=, &context](std::int64_t run) {
            fp8_linear(
                {.x = x->view(problem.x, {m, k}),
                 .w = w->view(DType::f8e4m3, {copies * n, k}).rows(run % copies * n, (run % copies + 1) * n),
                 .w_scale = w_scale->view(DType::f32, {scale_groups(n), groups}),
                 .out = out->view(problem.out, {m, n}),
                 .q = q->view(DType::f8e4m3, {m, k}),
                 .q_scale = q_scale->view(DType::f32, {m, groups}),
                 .rule = problem.rule,
                 .scale_format = problem.scale_format,
                 .accumulate = problem.accumulate,
                 .decode = problem.decode},
                context);
          },
      .product = {}};
}

}  // namespace fathom
