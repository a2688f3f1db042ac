#include "fathom/ops/fp8_gemm_nt.hpp"
#include "ops/gemm_bench.hpp"
#include "ops/gemm_scales.hpp"

namespace fathom {

BenchCase fp8_gemm_nt_bench(std::string_view text, const Context& context) {
  auto problem = parse_problem<Fp8GemmNtProblem>(text);
  problem.row_b_scale = problem.row_b_scale || problem.packed_b_scale;
  problem.aligned = bench_aligned(problem.aligned, context);
  const std::int64_t m = problem.m;
  const std::int64_t n = problem.n;
  const std::int64_t k = problem.k;
  const std::int64_t groups = scale_groups(k);
  const std::int64_t copies = cold_copies(n * k);
  constexpr double kDeviation = 100;  // as quantised values have: the largest of a group is near 448
  const BenchMatrix a(DType::f8e4m3, m, k, problem.aligned, kDeviation);
  const BenchMatrix b(DType::f8e4m3, copies * n, k, problem.aligned, kDeviation);
  const auto scales = [&](std::int64_t rows, bool packed) {
    const std::int64_t words = packed ? (groups + 3) / 4 : groups;
    const auto buffer = packed ? bench_packed_scales(rows * words) : bench_normal(DType::f32, {rows, words});
    return [=] { return buffer->view(packed ? DType::i32 : DType::f32, {rows, words}); };
  };
  const std::int64_t b_rows = problem.row_b_scale ? n : scale_groups(n);
  const auto a_scale = scales(m, problem.packed_a_scale);
  const auto b_scale = scales(b_rows, problem.packed_b_scale);
  const auto out = bench_normal(problem.out, {m, n});
  const auto arguments = [=](std::int64_t run) {
    return Fp8GemmNtArgs{.a = a.view(),
                         .a_scale = a_scale(),
                         .b = b.view().rows(run % copies * n, (run % copies + 1) * n),
                         .b_scale = b_scale(),
                         .out = out->view(problem.out, {m, n}),
                         .accumulate = problem.accumulate,
                         .decode = problem.decode};
  };
  const Fp8GemmNtArgs first = arguments(0);
  BenchCase result{
      .problem = problem_string(problem),
      .bytes = static_cast<double>(m * k + n * k + out->size() +
                                   4 * (first.a_scale.count() + first.b_scale.count())),
      .flops = 2.0 * static_cast<double>(m * n) * static_cast<double>(k),
      .arithmetic = DType::f8e4m3,
      .run = [=, &context](std::int64_t run) { fp8_gemm_nt(copies == 1 ? first : arguments(run), context); },
      .product = {}};
  if (copies == 1 && !problem.accumulate)
    result.product = {first.a, first.a_scale, first.b, first.b_scale, first.out};
  return result;
}

}  // namespace fathom
