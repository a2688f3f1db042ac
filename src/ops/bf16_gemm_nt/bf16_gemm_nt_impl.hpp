// The implementations of bf16_gemm_nt.
#pragma once
#include "fathom/ops/bf16_gemm_nt.hpp"

namespace fathom {
void bf16_gemm_nt_ref(const Bf16GemmNtProblem& problem, const Bf16GemmNtArgs& args, const Context& context);
void bf16_gemm_nt_cpu(const Bf16GemmNtProblem& problem, const Bf16GemmNtArgs& args, const Context& context);
void bf16_gemm_nt_simt(const Bf16GemmNtProblem& problem, const Bf16GemmNtArgs& args, const Context& context);
}  // namespace fathom
