#include "bench.hpp"
#include "fathom/ops/fp8_gemm_nt.hpp"
#include "ops/gemm_scales.hpp"

namespace fathom {

BenchCase fp8_gemm_nt_bench(std::string_view text, const Context& context) {
  auto problem = parse_problem<Fp8GemmNtProblem>(text);
  problem.row_b_scale = problem.row_b_scale || problem.packed_b_scale;
  const std::int64_t m = problem.m;
  const std::int64_t n = problem.n;
  const std::int64_t k = problem.k;
  const std::int64_t groups = scale_groups(k);
  const std::int64_t a_words = problem.packed_a_scale ? (groups + 3) / 4 : groups;
  const std::int64_t b_words = problem.packed_b_scale ? (groups + 3) / 4 : groups;
  const std::int64_t b_rows = problem.row_b_scale ? n : scale_groups(n);
  const std::int64_t copies = cold_copies(n * k);
  const auto a = bench_normal(DType::f8e4m3, {m, k});
  const auto b = bench_normal(DType::f8e4m3, {copies * n, k});
  const auto a_scale = bench_normal(DType::f32, {m, a_words});  // any bits are a valid packed scale
  const auto b_scale = bench_normal(DType::f32, {b_rows, b_words});
  const auto out = bench_normal(problem.out, {m, n});
  return {
      .problem = problem_string(problem),
      .bytes = static_cast<double>(a->size() + n * k + a_scale->size() + b_scale->size() + out->size()),
      .flops = 2.0 * static_cast<double>(m * n) * static_cast<double>(k),
      .run = [=, &context](std::int64_t run) {
        fp8_gemm_nt(
            {.a = a->view(DType::f8e4m3, {m, k}),
             .a_scale = a_scale->view(problem.packed_a_scale ? DType::i32 : DType::f32, {m, a_words}),
             .b = b->view(DType::f8e4m3, {copies * n, k}).rows(run % copies * n, (run % copies + 1) * n),
             .b_scale = b_scale->view(problem.packed_b_scale ? DType::i32 : DType::f32, {b_rows, b_words}),
             .out = out->view(problem.out, {m, n}),
             .accumulate = problem.accumulate},
            context);
      }};
}

}  // namespace fathom
