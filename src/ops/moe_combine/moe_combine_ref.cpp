// The oracle of moe_combine: plain loops, sums in double.
#include "ops/elements.hpp"
#include "ops/moe_combine/moe_combine_impl.hpp"

namespace fathom {

void moe_combine_ref(const MoeCombineProblem& problem, const MoeCombineArgs& args, const Context&) {
  for (std::int64_t t = 0; t < problem.tokens; ++t) {
    for (std::int64_t d = 0; d < problem.dim; ++d) {
      double sum = problem.accumulate ? static_cast<double>(at(args.out, t, d)) : 0.0;
      for (std::int64_t s = 0; s < problem.top_k; ++s) {
        const std::int32_t row = args.slot_to_row.as<std::int32_t>()[t * args.slot_to_row.step(0) + s];
        if (row >= 0)
          sum += static_cast<double>(at(args.weights, t, s)) * static_cast<double>(at(args.y, row, d));
      }
      put(args.out, t, d, static_cast<float>(sum));
    }
  }
}

}  // namespace fathom
