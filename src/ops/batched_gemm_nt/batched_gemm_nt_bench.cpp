#include "bench.hpp"
#include "fathom/ops/batched_gemm_nt.hpp"

namespace fathom {

BenchCase batched_gemm_nt_bench(std::string_view text, const Context& context) {
  const auto problem = parse_problem<BatchedGemmNtProblem>(text);
  const std::int64_t tokens = problem.tokens;
  const std::int64_t groups = problem.groups;
  const std::int64_t n = problem.n;
  const std::int64_t k = problem.k;
  const std::int64_t w_bytes = groups * n * k * size_of(problem.w);
  const std::int64_t copies = cold_copies(w_bytes);
  const auto x = bench_normal(problem.x, {tokens, groups, k});
  const auto w = bench_normal(problem.w, {copies * groups, n, k});
  const std::int64_t row_blocks = (n + 127) / 128;
  const std::int64_t blocks = (k + 127) / 128;
  const auto scale = bench_normal(DType::f32, {groups, row_blocks, blocks});
  const auto out = bench_normal(problem.out, {tokens, groups, n});
  return {.problem = problem_string(problem),
          .bytes = static_cast<double>(x->size() + w_bytes + out->size()),
          .flops = 2.0 * static_cast<double>(tokens * groups * n) * static_cast<double>(k),
          .run = [=, &context](std::int64_t run) {
            const TensorView scales = problem.w == DType::f8e4m3
                                          ? scale->view(DType::f32, {groups, row_blocks, blocks})
                                          : TensorView{};
            batched_gemm_nt({.x = x->view(problem.x, {tokens, groups, k}),
                             .w = w->view(problem.w, {copies * groups, n, k})
                                      .rows(run % copies * groups, (run % copies + 1) * groups),
                             .out = out->view(problem.out, {tokens, groups, n}),
                             .w_scale = scales},
                            context);
          }};
}

}  // namespace fathom
