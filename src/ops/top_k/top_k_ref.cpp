#include <numeric>
#include <vector>

#include "ops/cache_layout.hpp"
#include "ops/top_k/top_k_impl.hpp"

namespace fathom {

void top_k_ref(const TopKProblem& problem, const TopKArgs& args, const Context&) {
  for (std::int64_t r = 0; r < problem.rows; ++r) {
    const std::int64_t start = args.starts.given() ? integer_at(args.starts, r) : 0;
    const std::int64_t length = std::max<std::int64_t>(integer_at(args.lengths, r), 0);
    std::vector<std::int32_t> positions(static_cast<std::size_t>(length));
    std::iota(positions.begin(), positions.end(), 0);
    if (length > problem.k) {
      const float* scores = args.scores.as<float>() + r * args.scores.step(0) + start;
      std::stable_sort(positions.begin(), positions.end(), [&](std::int32_t a, std::int32_t b) {
        return top_k_key(scores[a]) > top_k_key(scores[b]);
      });
      positions.resize(static_cast<std::size_t>(problem.k));
      std::sort(positions.begin(), positions.end());
    }
    const TopKWriter write(problem, args, r);
    auto* out = args.out.as<std::int32_t>() + r * args.out.step(0);
    std::fill_n(out, problem.k, -1);
    for (const std::int32_t position : positions) *out++ = write(position);
  }
}

}  // namespace fathom
