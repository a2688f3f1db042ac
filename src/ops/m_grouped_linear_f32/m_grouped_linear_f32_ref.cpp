// The oracle of m_grouped_linear_f32: plain loops, sums in double.
#include "ops/elements.hpp"
#include "ops/grouped.hpp"
#include "ops/m_grouped_linear_f32/m_grouped_linear_f32_impl.hpp"

namespace fathom {

void m_grouped_linear_f32_ref(const MGroupedLinearF32Problem& problem, const MGroupedLinearF32Args& args,
                              const Context&) {
  const auto compute_row = [&](std::int64_t group, std::int64_t block, std::int64_t row) {
    const TensorView& b = args.b[static_cast<std::size_t>(group)];
    const float* a = args.a.as<float>() + row_index(args.a, block, row);
    for (std::int64_t j = 0; j < problem.n; ++j) {
      double sum = 0;
      for (std::int64_t i = 0; i < problem.k; ++i) {
        const float scale = problem.b == DType::f8e4m3
                                ? at(args.b_scale[static_cast<std::size_t>(group)], j / 128, i / 128)
                                : 1.0f;
        sum += static_cast<double>(a[i]) * (static_cast<double>(at(b, j, i)) * static_cast<double>(scale));
      }
      args.out.as<float>()[row_index(args.out, block, row) + j] = static_cast<float>(sum);
    }
  };
  for_each_group_run(problem.layout, args.rows, problem.groups, problem.rows,
                     [&](std::int64_t group, std::int64_t block, std::int64_t begin, std::int64_t end) {
                       for (std::int64_t row = begin; row < end; ++row) compute_row(group, block, row);
                     });
}

}  // namespace fathom
