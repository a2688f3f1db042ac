#include <cmath>

#include "ops/elements.hpp"
#include "ops/rms_norm/rms_norm_impl.hpp"

namespace fathom {

void rms_norm_ref(const RmsNormProblem& problem, const RmsNormArgs& args, const Context&) {
  for (std::int64_t t = 0; t < problem.tokens; ++t) {
    double squares = 0;
    for (std::int64_t d = 0; d < problem.dim; ++d)
      squares += std::pow(static_cast<double>(at(args.x, t, d)), 2);
    const double scale =
        1 / std::sqrt(squares / static_cast<double>(problem.dim) + static_cast<double>(args.epsilon));
    for (std::int64_t d = 0; d < problem.dim; ++d) {
      put(args.out, t, d, static_cast<float>(at(args.x, t, d) * scale * at(args.weight, d)));
    }
  }
}

}  // namespace fathom
