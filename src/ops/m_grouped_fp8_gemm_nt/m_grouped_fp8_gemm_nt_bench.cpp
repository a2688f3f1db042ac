// The bench of m_grouped_fp8_gemm_nt.
#include "fathom/ops/m_grouped_fp8_gemm_nt.hpp"
#include "ops/grouped_bench.hpp"

namespace fathom {

BenchCase m_grouped_fp8_gemm_nt_bench(std::string_view text, const Context& context) {
  using Bench = GroupedBench<MGroupedFp8GemmNtProblem>;
  const auto problem = parse_problem<MGroupedFp8GemmNtProblem>(text);
  const auto bench = std::make_shared<Bench>(problem, DType::f8e4m3, DType::f8e4m3, problem.out);
  return bench->bench_case([=, &context](std::int64_t run) {
    m_grouped_fp8_gemm_nt(
        {.a = bench->of_rows(bench->a, DType::f8e4m3, problem.k),
         .a_scale = problem.packed_a_scale
                        ? bench->of_rows(bench->a_scale, DType::i32, (bench->k_blocks + 3) / 4)
                        : bench->of_rows(bench->a_scale, DType::f32, bench->k_blocks),
         .b = bench->weights_of(run),
         .b_scale = bench->scales,
         .rows = bench->rows,
         .out = bench->of_rows(bench->out, problem.out, problem.n)},
        context);
  });
}

}  // namespace fathom
