// m_grouped_bf16_gemm_nt on the CPU: every run of rows of one group is one product of the shared core.
#include <algorithm>
#include <vector>

#include "cpu/gemm.hpp"
#include "ops/grouped.hpp"
#include "ops/m_grouped_bf16_gemm_nt/m_grouped_bf16_gemm_nt_impl.hpp"

namespace fathom {

void m_grouped_bf16_gemm_nt_cpu(const MGroupedBf16GemmNtProblem& problem, const MGroupedBf16GemmNtArgs& args,
                                const Context& context) {
  std::vector<cpu::Gemm> products;
  products.reserve(
      static_cast<std::size_t>(std::min(problem.groups, std::max<std::int64_t>(problem.rows, 1))));
  for_each_group_run(problem.layout, args.rows, problem.groups, problem.rows,
                     [&](std::int64_t group, std::int64_t block, std::int64_t begin, std::int64_t end) {
                       const auto g = static_cast<std::size_t>(group);
                       products.push_back(cpu::Gemm::of(row_block(args.a, block, begin, end), args.b[g],
                                                        row_block(args.out, block, begin, end)));
                     });
  cpu::gemm_all(products, context);
}

}  // namespace fathom
