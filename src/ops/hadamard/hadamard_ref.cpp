#include <cmath>
#include <vector>

#include "ops/elements.hpp"
#include "ops/hadamard/hadamard_impl.hpp"

namespace fathom {

void hadamard_ref(const HadamardProblem& problem, const HadamardArgs& args, const Context&) {
  std::vector<double> row(static_cast<std::size_t>(problem.dim));
  const double scale = 1 / std::sqrt(static_cast<double>(problem.dim));
  for (std::int64_t r = 0; r < problem.rows; ++r) {
    for (std::int64_t i = 0; i < problem.dim; ++i) row[static_cast<std::size_t>(i)] = at(args.x, r, i);
    for (std::size_t half = 1; half < row.size(); half *= 2) {
      for (std::size_t i = 0; i < row.size(); ++i) {
        if (i & half) continue;
        const double a = row[i];
        const double b = row[i + half];
        row[i] = a + b;
        row[i + half] = a - b;
      }
    }
    for (std::int64_t i = 0; i < problem.dim; ++i) {
      put(args.out, r, i, static_cast<float>(row[static_cast<std::size_t>(i)] * scale));
    }
  }
}

}  // namespace fathom
