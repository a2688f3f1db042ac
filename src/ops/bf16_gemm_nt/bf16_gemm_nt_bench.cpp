#include "fathom/ops/bf16_gemm_nt.hpp"
#include "ops/gemm_bench.hpp"

namespace fathom {

BenchCase bf16_gemm_nt_bench(std::string_view text, const Context& context) {
  auto problem = parse_problem<Bf16GemmNtProblem>(text);
  problem.aligned = bench_aligned(problem.aligned, context);
  const std::int64_t m = problem.m;
  const std::int64_t n = problem.n;
  const std::int64_t k = problem.k;
  const std::int64_t copies = cold_copies(2 * n * k);
  const BenchMatrix a(DType::bf16, m, k, problem.aligned);
  const BenchMatrix b(DType::bf16, copies * n, k, problem.aligned);
  const auto out = bench_normal(problem.out, {m, n});
  const auto arguments = [=](std::int64_t run) {
    return Bf16GemmNtArgs{.a = a.view(),
                          .b = b.view().rows(run % copies * n, (run % copies + 1) * n),
                          .out = out->view(problem.out, {m, n}),
                          .accumulate = problem.accumulate,
                          .decode = problem.decode};
  };
  const Bf16GemmNtArgs first = arguments(0);
  BenchCase result{
      .problem = problem_string(problem),
      .bytes = static_cast<double>(2 * (m * k + n * k) + out->size()),
      .flops = 2.0 * static_cast<double>(m * n) * static_cast<double>(k),
      .run = [=, &context](std::int64_t run) { bf16_gemm_nt(copies == 1 ? first : arguments(run), context); },
      .product = {}};
  if (copies == 1 && !problem.accumulate) result.product = {first.a, {}, first.b, {}, first.out};
  return result;
}

}  // namespace fathom
