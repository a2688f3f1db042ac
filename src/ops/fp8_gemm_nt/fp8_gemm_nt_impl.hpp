// The implementations of fp8_gemm_nt.
#pragma once
#include "fathom/ops/fp8_gemm_nt.hpp"

namespace fathom {
void fp8_gemm_nt_ref(const Fp8GemmNtProblem& problem, const Fp8GemmNtArgs& args, const Context& context);
void fp8_gemm_nt_cpu(const Fp8GemmNtProblem& problem, const Fp8GemmNtArgs& args, const Context& context);
void fp8_gemm_nt_simt(const Fp8GemmNtProblem& problem, const Fp8GemmNtArgs& args, const Context& context);
}  // namespace fathom
