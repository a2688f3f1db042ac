#include <algorithm>

#include "ops/elements.hpp"
#include "ops/fp8_gemm_nt/fp8_gemm_nt_impl.hpp"
#include "ops/gemm_scales.hpp"

namespace fathom {

void fp8_gemm_nt_ref(const Fp8GemmNtProblem& problem, const Fp8GemmNtArgs& args, const Context&) {
  const std::int64_t block = problem.row_b_scale ? 1 : kScaleGroup;
  for (std::int64_t i = 0; i < problem.m; ++i) {
    for (std::int64_t j = 0; j < problem.n; ++j) {
      double total = problem.accumulate ? static_cast<double>(at(args.out, i, j)) : 0.0;
      for (std::int64_t g = 0; g < scale_groups(problem.k); ++g) {
        double sum = 0;
        for (std::int64_t k = g * kScaleGroup; k < std::min(problem.k, (g + 1) * kScaleGroup); ++k) {
          sum += static_cast<double>(at(args.a, i, k)) * static_cast<double>(at(args.b, j, k));
        }
        total += sum * static_cast<double>(scale_at(args.a_scale, i, g)) *
                 static_cast<double>(scale_at(args.b_scale, j / block, g));
      }
      put(args.out, i, j, static_cast<float>(total));
    }
  }
}

}  // namespace fathom
