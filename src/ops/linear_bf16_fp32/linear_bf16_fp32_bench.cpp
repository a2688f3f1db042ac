#include "bench.hpp"
#include "fathom/ops/linear_bf16_fp32.hpp"

namespace fathom {

BenchCase linear_bf16_fp32_bench(std::string_view text, const Context& context) {
  const auto problem = parse_problem<LinearBf16Fp32Problem>(text);
  const std::int64_t m = problem.m;
  const std::int64_t n = problem.n;
  const std::int64_t k = problem.k;
  const std::int64_t copies = cold_copies(2 * n * k);
  const auto x = bench_normal(DType::bf16, {m, k});
  const auto w = bench_normal(DType::bf16, {copies * n, k});
  const auto out = bench_normal(DType::f32, {m, n});
  return {.problem = problem_string(problem),
          .bytes = static_cast<double>(x->size() + 2 * n * k + out->size()),
          .flops = 2.0 * static_cast<double>(m * n) * static_cast<double>(k),
          .run = [=, &context](std::int64_t run) {
            linear_bf16_fp32(
                {.x = x->view(DType::bf16, {m, k}),
                 .w = w->view(DType::bf16, {copies * n, k}).rows(run % copies * n, (run % copies + 1) * n),
                 .out = out->view(DType::f32, {m, n})},
                context);
          }};
}

}  // namespace fathom
