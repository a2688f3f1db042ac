// The oracle of m_grouped_fp8_gemm_nt: plain loops, sums in double.
#include "ops/elements.hpp"
#include "ops/grouped.hpp"
#include "ops/m_grouped_fp8_gemm_nt/m_grouped_fp8_gemm_nt_impl.hpp"

namespace fathom {

void m_grouped_fp8_gemm_nt_ref(const MGroupedFp8GemmNtProblem& problem, const MGroupedFp8GemmNtArgs& args,
                               const Context&) {
  const std::int64_t scale_step = args.a_scale.step(args.a_scale.rank - 1);
  const auto compute_row = [&](std::int64_t group, std::int64_t block, std::int64_t row) {
    const TensorView& b = args.b[static_cast<std::size_t>(group)];
    const TensorView& b_scale = args.b_scale[static_cast<std::size_t>(group)];
    const std::int64_t a = row_index(args.a, block, row);
    const std::int64_t a_scale = row_index(args.a_scale, block, row);
    for (std::int64_t j = 0; j < problem.n; ++j) {
      double sum = 0;
      for (std::int64_t i = 0; i < problem.k; ++i) {
        const double scale = static_cast<double>(args.a_scale.as<float>()[a_scale + i / 128 * scale_step]) *
                             static_cast<double>(at(b_scale, j / 128, i / 128));
        sum += scale * static_cast<double>(load_element(args.a.data, DType::f8e4m3, a + i)) *
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
