#include <cmath>

#include "ops/elements.hpp"
#include "ops/head_gate/head_gate_impl.hpp"

namespace fathom {

void head_gate_ref(const HeadGateProblem& problem, const HeadGateArgs& args, const Context&) {
  const double scale =
      static_cast<double>(args.softmax_scale) / std::sqrt(static_cast<double>(problem.heads));
  for (std::int64_t t = 0; t < problem.tokens; ++t) {
    for (std::int64_t h = 0; h < problem.heads; ++h) {
      double sum = 0;
      for (std::int64_t c = 0; c < problem.hidden; ++c) {
        sum += static_cast<double>(at(args.x, t, c)) * static_cast<double>(at(args.w, h, c));
      }
      const double q_scale = problem.q_scale ? static_cast<double>(at(args.q_scale, t, h)) : 1;
      put(args.out, t, h, static_cast<float>(sum * scale * q_scale));
    }
  }
}

}  // namespace fathom
