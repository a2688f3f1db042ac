#include "bench.hpp"
#include "fathom/ops/linear_f32.hpp"
#include "ops/gemm_scales.hpp"

namespace fathom {

BenchCase linear_f32_bench(std::string_view text, const Context& context) {
  const auto problem = parse_problem<LinearF32Problem>(text);
  const std::int64_t m = problem.m;
  const std::int64_t n = problem.n;
  const std::int64_t k = problem.k;
  const std::int64_t w_bytes = n * k * size_of(problem.w);
  const std::int64_t copies = cold_copies(w_bytes);
  const auto x = bench_normal(DType::f32, {m, k});
  const auto w = bench_normal(problem.w, {copies * n, k});
  const auto w_scale = bench_normal(DType::f32, {scale_groups(n), scale_groups(k)});
  const auto out = bench_normal(DType::f32, {m, n});
  return {
      .problem = problem_string(problem),
      .bytes = static_cast<double>(x->size() + w_bytes + out->size()),
      .flops = 2.0 * static_cast<double>(m * n) * static_cast<double>(k),
      .run = [=, &context](std::int64_t run) {
        const bool scaled = problem.w == DType::f8e4m3;
        linear_f32(
            {.x = x->view(DType::f32, {m, k}),
             .w = w->view(problem.w, {copies * n, k}).rows(run % copies * n, (run % copies + 1) * n),
             .w_scale = scaled ? w_scale->view(DType::f32, {scale_groups(n), scale_groups(k)}) : TensorView{},
             .out = out->view(DType::f32, {m, n}),
             .accumulate = problem.accumulate},
            context);
      }};
}

}  // namespace fathom
