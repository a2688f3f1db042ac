// The bench of m_grouped_bf16_gemm_nt.
#include "fathom/ops/m_grouped_bf16_gemm_nt.hpp"
#include "ops/grouped_bench.hpp"

namespace fathom {

BenchCase m_grouped_bf16_gemm_nt_bench(std::string_view text, const Context& context) {
  using Bench = GroupedBench<MGroupedBf16GemmNtProblem>;
  const auto problem = parse_problem<MGroupedBf16GemmNtProblem>(text);
  const auto bench = std::make_shared<Bench>(problem, DType::bf16, DType::bf16, problem.out);
  return bench->bench_case([=, &context](std::int64_t run) {
    m_grouped_bf16_gemm_nt({.a = bench->of_rows(bench->a, DType::bf16, problem.k),
                            .b = bench->weights_of(run),
                            .rows = bench->rows,
                            .out = bench->of_rows(bench->out, problem.out, problem.n)},
                           context);
  });
}

}  // namespace fathom
