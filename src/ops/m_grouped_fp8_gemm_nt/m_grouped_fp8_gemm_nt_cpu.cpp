// m_grouped_fp8_gemm_nt on the CPU: every run of rows of one group is one product of the shared core.
#include <algorithm>
#include <vector>

#include "cpu/gemm.hpp"
#include "ops/gemm_scales.hpp"
#include "ops/grouped.hpp"
#include "ops/m_grouped_fp8_gemm_nt/m_grouped_fp8_gemm_nt_impl.hpp"

namespace fathom {

void m_grouped_fp8_gemm_nt_cpu(const MGroupedFp8GemmNtProblem& problem, const MGroupedFp8GemmNtArgs& args,
                               const Context& context) {
  std::vector<cpu::Gemm> products;
  products.reserve(
      static_cast<std::size_t>(std::min(problem.groups, std::max<std::int64_t>(problem.rows, 1))));
  for_each_group_run(
      problem.layout, args.rows, problem.groups, problem.rows,
      [&](std::int64_t group, std::int64_t block, std::int64_t begin, std::int64_t end) {
        const auto g = static_cast<std::size_t>(group);
        cpu::Gemm& gemm = products.emplace_back(cpu::Gemm::of(row_block(args.a, block, begin, end), args.b[g],
                                                              row_block(args.out, block, begin, end)));
        gemm.a_scale = cpu::gemm_scale(row_block(args.a_scale, block, begin, end), 1);
        gemm.b_scale = cpu::gemm_scale(args.b_scale[g], kScaleGroup);
      });
  cpu::gemm_all(products, context);
}

}  // namespace fathom
