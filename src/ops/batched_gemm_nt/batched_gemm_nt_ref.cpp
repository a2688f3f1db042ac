#include "ops/batched_gemm_nt/batched_gemm_nt_impl.hpp"
#include "ops/elements.hpp"

namespace fathom {

void batched_gemm_nt_ref(const BatchedGemmNtProblem& problem, const BatchedGemmNtArgs& args, const Context&) {
  for (std::int64_t t = 0; t < problem.tokens; ++t) {
    for (std::int64_t g = 0; g < problem.groups; ++g) {
      for (std::int64_t j = 0; j < problem.n; ++j) {
        double sum = 0;
        for (std::int64_t k = 0; k < problem.k; ++k) {
          const float scale = problem.w == DType::f8e4m3 ? at(args.w_scale, g, j / 128, k / 128) : 1.0f;
          sum += static_cast<double>(at(args.x, t, g, k)) * static_cast<double>(at(args.w, g, j, k)) *
                 static_cast<double>(scale);
        }
        store_element(args.out.data, problem.out,
                      t * args.out.step(0) + g * args.out.step(1) + j * args.out.step(2),
                      static_cast<float>(sum));
      }
    }
  }
}

}  // namespace fathom
