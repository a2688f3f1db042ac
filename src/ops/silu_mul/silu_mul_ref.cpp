#include "ops/elements.hpp"
#include "ops/silu.hpp"
#include "ops/silu_mul/silu_mul_impl.hpp"

namespace fathom {

void silu_mul_ref(const SiluMulProblem& problem, const SiluMulArgs& args, const Context&) {
  float limit = args.clamp_limit.value_or(0);
  if (problem.gate_up == DType::bf16) limit = bf16_to_float(float_to_bf16(limit));
  for (std::int64_t r = 0; r < problem.rows; ++r) {
    for (std::int64_t d = 0; d < problem.dim; ++d) {
      float gate = at(args.gate_up, r, d);
      float up = at(args.gate_up, r, problem.dim + d);
      if (problem.clamp) {
        gate = clamp_gate(gate, limit);
        up = clamp_up(up, limit);
      }
      put(args.out, r, d, silu(gate) * up);
    }
  }
}

}  // namespace fathom
