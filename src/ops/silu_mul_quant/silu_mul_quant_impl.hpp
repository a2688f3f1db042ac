// The implementations of silu_mul_quant.
#pragma once
#include "fathom/ops/silu_mul_quant.hpp"
#include "ops/dispatch.hpp"

namespace fathom {
void silu_mul_quant_ref(const SiluMulQuantProblem& problem, const SiluMulQuantArgs& args,
                        const Context& context);
void silu_mul_quant_cpu(const SiluMulQuantProblem& problem, const SiluMulQuantArgs& args,
                        const Context& context);
void silu_mul_quant_simt(const SiluMulQuantProblem& problem, const SiluMulQuantArgs& args,
                         const Context& context);
}  // namespace fathom
