// The oracle of m_grouped_fp8_gemm_nt: the oracle of fp8_gemm_nt on every run of rows of one group.
#include "ops/fp8_gemm_nt/fp8_gemm_nt_impl.hpp"
#include "ops/grouped.hpp"
#include "ops/m_grouped_fp8_gemm_nt/m_grouped_fp8_gemm_nt_impl.hpp"

namespace fathom {

void m_grouped_fp8_gemm_nt_ref(const MGroupedFp8GemmNtProblem& problem, const MGroupedFp8GemmNtArgs& args,
                               const Context& context) {
  for_each_group_run(problem.layout, args.rows, problem.groups, problem.rows,
                     [&](std::int64_t group, std::int64_t block, std::int64_t begin, std::int64_t end) {
                       const auto g = static_cast<std::size_t>(group);
                       fp8_gemm_nt_ref({.m = end - begin,
                                        .n = problem.n,
                                        .k = problem.k,
                                        .packed_a_scale = problem.packed_a_scale,
                                        .out = problem.out},
                                       {.a = row_block(args.a, block, begin, end),
                                        .a_scale = row_block(args.a_scale, block, begin, end),
                                        .b = args.b[g],
                                        .b_scale = args.b_scale[g],
                                        .out = row_block(args.out, block, begin, end)},
                                       context);
                     });
}

}  // namespace fathom
