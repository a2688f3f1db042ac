// The CPU form of every grouped product: all runs of rows of one group, as products of the shared core.
#pragma once
#include <algorithm>
#include <vector>

#include "cpu/gemm.hpp"
#include "ops/grouped.hpp"

namespace fathom {

/// add_scales(gemm, group, block, begin, end) completes the product of rows [begin, end) of a block.
template <class Problem, class Args, class AddScales>
void grouped_gemm(const Problem& problem, const Args& args, const Context& context,
                  const AddScales& add_scales) {
  std::vector<cpu::Gemm> products;
  products.reserve(
      static_cast<std::size_t>(std::min(problem.groups, std::max<std::int64_t>(problem.rows, 1))));
  for_each_group_run(problem.layout, args.rows, problem.groups, problem.rows,
                     [&](std::int64_t group, std::int64_t block, std::int64_t begin, std::int64_t end) {
                       const auto g = static_cast<std::size_t>(group);
                       products.push_back(cpu::Gemm::of(row_block(args.a, block, begin, end), args.b[g],
                                                        row_block(args.out, block, begin, end)));
                       add_scales(products.back(), g, block, begin, end);
                     });
  cpu::link_weights(products);
  cpu::gemm_all(products, context);
}

}  // namespace fathom
