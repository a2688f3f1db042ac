#include "fathom/ops/linear_bf16_fp32.hpp"
#include "ops/gemm_bench.hpp"

namespace fathom {

BenchCase linear_bf16_fp32_bench(std::string_view text, const Context& context) {
  auto problem = parse_problem<LinearBf16Fp32Problem>(text);
  problem.aligned = bench_aligned(problem.aligned, context);
  const std::int64_t m = problem.m;
  const std::int64_t n = problem.n;
  const std::int64_t k = problem.k;
  const std::int64_t copies = cold_copies(2 * n * k);
  const BenchMatrix x(DType::bf16, m, k, problem.aligned);
  const BenchMatrix w(DType::bf16, copies * n, k, problem.aligned);
  const auto out = bench_normal(DType::f32, {m, n});
  const auto arguments = [=](std::int64_t run) {
    return LinearBf16Fp32Args{.x = x.view(),
                              .w = w.view().rows(run % copies * n, (run % copies + 1) * n),
                              .out = out->view(DType::f32, {m, n}),
                              .decode = problem.decode};
  };
  const LinearBf16Fp32Args first = arguments(0);
  BenchCase result{
      .problem = problem_string(problem),
      .bytes = static_cast<double>(2 * (m * k + n * k) + out->size()),
      .flops = 2.0 * static_cast<double>(m * n) * static_cast<double>(k),
      .run = [=, &context](
                 std::int64_t run) { linear_bf16_fp32(copies == 1 ? first : arguments(run), context); },
      .product = {}};
  if (copies == 1) result.product = {first.x, {}, first.w, {}, first.out};
  return result;
}

}  // namespace fathom
