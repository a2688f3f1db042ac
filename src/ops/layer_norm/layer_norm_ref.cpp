// The oracle of layer_norm: plain loops, sums in double.
#include <cmath>

#include "ops/elements.hpp"
#include "ops/layer_norm/layer_norm_impl.hpp"

namespace fathom {

void layer_norm_ref(const LayerNormProblem& problem, const LayerNormArgs& args, const Context&) {
  const auto dim = static_cast<double>(problem.dim);
  for (std::int64_t t = 0; t < problem.tokens; ++t) {
    double mean = 0;
    for (std::int64_t d = 0; d < problem.dim; ++d) mean += static_cast<double>(at(args.x, t, d));
    mean /= dim;
    double squares = 0;
    for (std::int64_t d = 0; d < problem.dim; ++d) {
      squares += std::pow(static_cast<double>(at(args.x, t, d)) - mean, 2);
    }
    const double scale = 1 / std::sqrt(squares / dim + static_cast<double>(args.epsilon));
    for (std::int64_t d = 0; d < problem.dim; ++d) {
      const double normal = (static_cast<double>(at(args.x, t, d)) - mean) * scale;
      put(args.out, t, d, static_cast<float>(normal * at(args.weight, d) + at(args.bias, d)));
    }
  }
}

}  // namespace fathom
