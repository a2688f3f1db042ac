#include <limits>

#include "ops/cache_layout.hpp"
#include "ops/elements.hpp"
#include "ops/paged_mqa_logits/paged_mqa_logits_impl.hpp"

namespace fathom {

void paged_mqa_logits_ref(const PagedMqaLogitsProblem& problem, const PagedMqaLogitsArgs& args,
                          const Context&) {
  const TensorView lens = paged_mqa_lens(problem, args);
  const TensorView table = paged_mqa_table(problem, args);
  const IndexCache cache{args.cache, problem.page, problem.head_dim};
  const bool quantised = problem.q == DType::f8e4m3;
  for (std::int64_t row = 0; row < problem.batch * problem.next_n; ++row) {
    const std::int64_t b = row / problem.next_n;
    const std::int64_t i = row % problem.next_n;
    const std::int64_t q_row = b * args.q.step(0) + i * args.q.step(1);
    for (std::int64_t j = 0; j < problem.max_len; ++j) {
      if (j >= int_at(lens, b, i)) {
        put(args.logits, row, j, -std::numeric_limits<float>::infinity());
        continue;
      }
      const std::int64_t page = int_at(table, b, j / problem.page);
      const std::int64_t entry = j % problem.page;
      if (page < 0) {
        put(args.logits, row, j, -std::numeric_limits<float>::infinity());
        continue;
      }
      double sum = 0;
      for (std::int64_t h = 0; h < problem.heads; ++h) {
        double dot = 0;
        for (std::int64_t d = 0; d < problem.head_dim; ++d) {
          const float q = load_element(args.q.data, problem.q, q_row + h * args.q.step(2) + d);
          const float k =
              quantised ? f8e4m3_to_float(cache.key_f8(page, entry)[d]) : cache.key_f32(page, entry)[d];
          dot += static_cast<double>(q) * static_cast<double>(k);
        }
        sum += static_cast<double>(at(args.weights, row, h)) * std::max(0.0, dot);
      }
      const double scale = quantised ? static_cast<double>(load_f32(cache.scale(page, entry))) : 1.0;
      put(args.logits, row, j, static_cast<float>(scale * sum));
    }
  }
}

}  // namespace fathom
