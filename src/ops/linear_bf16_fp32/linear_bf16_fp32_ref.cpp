#include "ops/elements.hpp"
#include "ops/linear_bf16_fp32/linear_bf16_fp32_impl.hpp"

namespace fathom {

void linear_bf16_fp32_ref(const LinearBf16Fp32Problem& problem, const LinearBf16Fp32Args& args,
                          const Context&) {
  for (std::int64_t i = 0; i < problem.m; ++i) {
    for (std::int64_t j = 0; j < problem.n; ++j) {
      double sum = 0;
      for (std::int64_t k = 0; k < problem.k; ++k) {
        sum += static_cast<double>(at(args.x, i, k)) * static_cast<double>(at(args.w, j, k));
      }
      put(args.out, i, j, static_cast<float>(sum));
    }
  }
}

}  // namespace fathom
