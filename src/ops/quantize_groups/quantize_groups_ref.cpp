#include <algorithm>

#include "ops/elements.hpp"
#include "ops/group_quant.hpp"
#include "ops/quantize_groups/quantize_groups_impl.hpp"

namespace fathom {

void quantize_groups_ref(const QuantizeGroupsProblem& problem, const QuantizeGroupsArgs& args,
                         const Context&) {
  const std::int64_t groups = scale_groups(problem.k);
  const ScaleWriter scales(args.scale, problem.scale_layout, groups);
  for (std::int64_t t = 0; t < problem.tokens; ++t) {
    for (std::int64_t g = 0; g < groups; ++g) {
      const std::int64_t begin = g * kQuantGroup;
      const std::int64_t n = std::min(kQuantGroup, problem.k - begin);
      const auto load = [&](std::int64_t i) { return at(args.x, t, begin + i); };
      std::uint8_t* q = args.q.as<std::uint8_t>() + t * args.q.step(0) + begin;
      scales.write(t, g, quantize_group(problem.rule, problem.scale_format, n, load, q));
    }
  }
}

}  // namespace fathom
