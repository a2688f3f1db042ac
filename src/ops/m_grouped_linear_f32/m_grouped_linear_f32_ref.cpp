// The oracle of m_grouped_linear_f32: the oracle of linear_f32 on every run of rows of one group.
#include "ops/grouped.hpp"
#include "ops/linear_f32/linear_f32_impl.hpp"
#include "ops/m_grouped_linear_f32/m_grouped_linear_f32_impl.hpp"

namespace fathom {

void m_grouped_linear_f32_ref(const MGroupedLinearF32Problem& problem, const MGroupedLinearF32Args& args,
                              const Context& context) {
  for_each_group_run(problem.layout, args.rows, problem.groups, problem.rows,
                     [&](std::int64_t group, std::int64_t block, std::int64_t begin, std::int64_t end) {
                       const auto g = static_cast<std::size_t>(group);
                       linear_f32_ref({.m = end - begin, .n = problem.n, .k = problem.k, .w = problem.b},
                                      {.x = row_block(args.a, block, begin, end),
                                       .w = args.b[g],
                                       .w_scale = args.b_scale.empty() ? TensorView{} : args.b_scale[g],
                                       .out = row_block(args.out, block, begin, end)},
                                      context);
                     });
}

}  // namespace fathom
