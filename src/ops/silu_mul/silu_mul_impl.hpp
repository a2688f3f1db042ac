// The implementations of silu_mul.
#pragma once
#include "fathom/ops/silu_mul.hpp"

namespace fathom {
void silu_mul_ref(const SiluMulProblem& problem, const SiluMulArgs& args, const Context& context);
void silu_mul_cpu(const SiluMulProblem& problem, const SiluMulArgs& args, const Context& context);
void silu_mul_simt(const SiluMulProblem& problem, const SiluMulArgs& args, const Context& context);
}  // namespace fathom
