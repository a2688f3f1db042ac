#include "bench.hpp"
#include "fathom/ops/bf16_gemm_nt.hpp"

namespace fathom {

BenchCase bf16_gemm_nt_bench(std::string_view text, const Context& context) {
  const auto problem = parse_problem<Bf16GemmNtProblem>(text);
  const std::int64_t m = problem.m;
  const std::int64_t n = problem.n;
  const std::int64_t k = problem.k;
  const std::int64_t copies = cold_copies(2 * n * k);
  const auto a = bench_normal(DType::bf16, {m, k});
  const auto b = bench_normal(DType::bf16, {copies * n, k});
  const auto out = bench_normal(problem.out, {m, n});
  return {.problem = problem_string(problem),
          .bytes = static_cast<double>(a->size() + 2 * n * k + out->size()),
          .flops = 2.0 * static_cast<double>(m * n) * static_cast<double>(k),
          .run = [=, &context](std::int64_t run) {
            bf16_gemm_nt(
                {.a = a->view(DType::bf16, {m, k}),
                 .b = b->view(DType::bf16, {copies * n, k}).rows(run % copies * n, (run % copies + 1) * n),
                 .out = out->view(problem.out, {m, n}),
                 .accumulate = problem.accumulate},
                context);
          }};
}

}  // namespace fathom
