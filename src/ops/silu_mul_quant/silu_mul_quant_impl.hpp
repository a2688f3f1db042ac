// The implementations of silu_mul_quant.
#pragma once
#include "fathom/ops/silu_mul_quant.hpp"

namespace fathom {
void silu_mul_quant_ref(const SiluMulQuantProblem& problem, const SiluMulQuantArgs& args,
                        const Context& context);
void silu_mul_quant_cpu(const SiluMulQuantProblem& problem, const SiluMulQuantArgs& args,
                        const Context& context);

/// Matrix e of [experts, rows, columns], or the 2-D tensor itself.
inline TensorView expert_matrix(TensorView tensor, std::int64_t expert) {
  if (tensor.rank == 2) return tensor;
  tensor.data = static_cast<std::byte*>(tensor.data) + expert * tensor.step(0) * size_of(tensor.dtype);
  tensor.rank = 2;
  tensor.shape = {tensor.size(1), tensor.size(2)};
  tensor.stride = {tensor.step(1), tensor.step(2)};
  return tensor;
}
}  // namespace fathom
