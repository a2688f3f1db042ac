#include <limits>

#include "ops/cache_layout.hpp"
#include "ops/elements.hpp"
#include "ops/mqa_logits/mqa_logits_impl.hpp"

namespace fathom {

void mqa_logits_ref(const MqaLogitsProblem& problem, const MqaLogitsArgs& args, const Context&) {
  for (std::int64_t t = 0; t < problem.tokens; ++t) {
    const std::int64_t first = integer_at(args.first, t);
    const std::int64_t last = integer_at(args.last, t);
    for (std::int64_t j = 0; j < problem.keys; ++j) {
      if (j < first || j >= last) {
        put(args.logits, t, j, -std::numeric_limits<float>::infinity());
        continue;
      }
      double sum = 0;
      for (std::int64_t h = 0; h < problem.heads; ++h) {
        double dot = 0;
        for (std::int64_t d = 0; d < problem.head_dim; ++d)
          dot += static_cast<double>(at(args.q, t, h, d)) * static_cast<double>(at(args.k, j, d));
        sum += static_cast<double>(at(args.weights, t, h)) * std::max(0.0, dot);
      }
      const double scale = problem.q == DType::f8e4m3 ? static_cast<double>(at(args.k_scale, j)) : 1.0;
      put(args.logits, t, j, static_cast<float>(scale * sum));
    }
  }
}

}  // namespace fathom
