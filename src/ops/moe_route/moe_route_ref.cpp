// The oracle of moe_route: scores in double rounded once, full sorts.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "ops/elements.hpp"
#include "ops/moe_route/moe_route_impl.hpp"

namespace fathom {
namespace {
using Floats = std::vector<float>;

Floats scores_of(const MoeRouteProblem& problem, const MoeRouteArgs& args, std::int64_t t) {
  Floats scores;
  double largest = -std::numeric_limits<double>::infinity();
  for (std::int64_t e = 0; e < problem.experts; ++e) {
    largest = std::max(largest, static_cast<double>(at(args.logits, t, e)));
  }
  double sum = 0;
  for (std::int64_t e = 0; e < problem.experts; ++e) sum += std::exp(at(args.logits, t, e) - largest);
  for (std::int64_t e = 0; e < problem.experts; ++e) {
    const double logit = at(args.logits, t, e);
    scores.push_back(static_cast<float>(problem.scoring == RouterScoring::sigmoid
                                            ? 1 / (1 + std::exp(-logit))
                                            : std::exp(logit - largest) / sum));
  }
  return scores;
}

// The indices of the `count` largest of `values`, largest first, ties to the lower index.
std::vector<std::int64_t> best(const Floats& values, std::int64_t count) {
  std::vector<std::int64_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
    return values[static_cast<std::size_t>(a)] > values[static_cast<std::size_t>(b)];
  });
  order.resize(static_cast<std::size_t>(count));
  return order;
}
}  // namespace

void moe_route_ref(const MoeRouteProblem& problem, const MoeRouteArgs& args, const Context&) {
  constexpr float kNever = -std::numeric_limits<float>::infinity();
  const std::int64_t group_size = problem.experts / problem.n_group;
  for (std::int64_t t = 0; t < problem.tokens; ++t) {
    const Floats scores = scores_of(problem, args, t);
    Floats choice = scores;
    for (std::int64_t e = 0; e < problem.experts; ++e) {
      float& c = choice[static_cast<std::size_t>(e)];
      if (problem.bias) c += at(args.correction_bias, e);
      if (std::isnan(c)) c = kNever;
    }
    Floats group_values;
    for (std::int64_t g = 0; g < problem.n_group; ++g) {
      const auto first = choice.begin() + g * group_size;
      Floats group(first, first + group_size);
      std::sort(group.begin(), group.end(), std::greater<>());
      group_values.push_back(group_size == 1 ? group[0] : group[0] + group[1]);
    }
    // Experts of the groups that take part, in ascending order, and what is left of `choice` for them.
    std::vector<std::int64_t> groups = best(group_values, problem.topk_group);
    std::sort(groups.begin(), groups.end());
    std::vector<std::int64_t> candidates;
    Floats values;
    for (const std::int64_t g : groups) {
      for (std::int64_t e = g * group_size; e < (g + 1) * group_size; ++e) {
        candidates.push_back(e);
        values.push_back(choice[static_cast<std::size_t>(e)]);
      }
    }
    double sum = 1e-20;
    const std::vector<std::int64_t> winners = best(values, problem.top_k);
    for (std::int64_t s = 0; s < problem.top_k; ++s) {
      const std::int64_t expert = candidates[static_cast<std::size_t>(winners[static_cast<std::size_t>(s)])];
      args.ids.as<std::int32_t>()[t * args.ids.step(0) + s] = static_cast<std::int32_t>(expert);
      sum += static_cast<double>(scores[static_cast<std::size_t>(expert)]);
    }
    for (std::int64_t s = 0; s < problem.top_k; ++s) {
      const std::int32_t expert = args.ids.as<std::int32_t>()[t * args.ids.step(0) + s];
      const double score = scores[static_cast<std::size_t>(expert)];
      put(args.weights, t, s,
          static_cast<float>((problem.renormalize ? score / sum : score) * args.routed_scaling));
    }
  }
}

}  // namespace fathom
