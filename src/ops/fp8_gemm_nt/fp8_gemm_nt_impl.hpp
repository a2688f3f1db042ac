// The implementations of fp8_gemm_nt.
#pragma once
#include "fathom/ops/fp8_gemm_nt.hpp"
#include "ops/dispatch.hpp"

namespace fathom {
void fp8_gemm_nt_ref(const Fp8GemmNtProblem& problem, const Fp8GemmNtArgs& args, const Context& context);
void fp8_gemm_nt_cpu(const Fp8GemmNtProblem& problem, const Fp8GemmNtArgs& args, const Context& context);
void fp8_gemm_nt_simt(const Fp8GemmNtProblem& problem, const Fp8GemmNtArgs& args, const Context& context);
Verdict fp8_gemm_nt_sm90_can_run(const Fp8GemmNtProblem& problem, const Context& context);
void fp8_gemm_nt_sm90(const Fp8GemmNtProblem& problem, const Fp8GemmNtArgs& args, const Context& context);
}  // namespace fathom
