// The oracle of m_grouped_bf16_gemm_nt: plain loops, sums in double.
#include "ops/elements.hpp"
#include "ops/grouped.hpp"
#include "ops/m_grouped_bf16_gemm_nt/m_grouped_bf16_gemm_nt_impl.hpp"

namespace fathom {

void m_grouped_bf16_gemm_nt_ref(const MGroupedBf16GemmNtProblem& problem, const MGroupedBf16GemmNtArgs& args,
                                const Context&) {
  const auto compute_row = [&](std::int64_t group, std::int64_t block, std::int64_t row) {
    const TensorView& b = args.b[static_cast<std::size_t>(group)];
    const std::int64_t a = row_index(args.a, block, row);
    for (std::int64_t j = 0; j < problem.n; ++j) {
      double sum = 0;
      for (std::int64_t i = 0; i < problem.k; ++i) {
        sum += static_cast<double>(load_element(args.a.data, DType::bf16, a + i)) *
               static_cast<double>(at(b, j, i));
      }
      store_element(args.out.data, problem.out, row_index(args.out, block, row) + j, static_cast<float>(sum));
    }
  };
  for_each_group_run(problem.layout, args.rows, problem.groups, problem.rows,
                     [&](std::int64_t group, std::int64_t block, std::int64_t begin, std::int64_t end) {
                       for (std::int64_t row = begin; row < end; ++row) compute_row(group, block, row);
                     });
}

}  // namespace fathom
