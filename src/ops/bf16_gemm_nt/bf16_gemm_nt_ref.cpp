#include "ops/bf16_gemm_nt/bf16_gemm_nt_impl.hpp"
#include "ops/elements.hpp"

namespace fathom {

void bf16_gemm_nt_ref(const Bf16GemmNtProblem& problem, const Bf16GemmNtArgs& args, const Context&) {
  for (std::int64_t i = 0; i < problem.m; ++i) {
    for (std::int64_t j = 0; j < problem.n; ++j) {
      double sum = problem.accumulate ? static_cast<double>(at(args.out, i, j)) : 0.0;
      for (std::int64_t k = 0; k < problem.k; ++k) {
        sum += static_cast<double>(at(args.a, i, k)) * static_cast<double>(at(args.b, j, k));
      }
      put(args.out, i, j, static_cast<float>(sum));
    }
  }
}

}  // namespace fathom
