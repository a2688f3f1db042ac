#include "ops/elements.hpp"
#include "ops/gemm_scales.hpp"
#include "ops/linear_f32/linear_f32_impl.hpp"

namespace fathom {

void linear_f32_ref(const LinearF32Problem& problem, const LinearF32Args& args, const Context&) {
  for (std::int64_t i = 0; i < problem.m; ++i) {
    for (std::int64_t j = 0; j < problem.n; ++j) {
      double sum = problem.accumulate ? static_cast<double>(at(args.out, i, j)) : 0.0;
      for (std::int64_t k = 0; k < problem.k; ++k) {
        const double scale = args.w_scale.given()
                                 ? static_cast<double>(at(args.w_scale, j / kScaleGroup, k / kScaleGroup))
                                 : 1;
        sum += static_cast<double>(at(args.x, i, k)) * static_cast<double>(at(args.w, j, k)) * scale;
      }
      put(args.out, i, j, static_cast<float>(sum));
    }
  }
}

}  // namespace fathom
