// The implementations of bf16_gemm_nt.
#pragma once
#include "fathom/ops/bf16_gemm_nt.hpp"
#include "ops/dispatch.hpp"

namespace fathom {
void bf16_gemm_nt_ref(const Bf16GemmNtProblem& problem, const Bf16GemmNtArgs& args, const Context& context);
void bf16_gemm_nt_cpu(const Bf16GemmNtProblem& problem, const Bf16GemmNtArgs& args, const Context& context);
void bf16_gemm_nt_simt(const Bf16GemmNtProblem& problem, const Bf16GemmNtArgs& args, const Context& context);
Verdict bf16_gemm_nt_sm90_can_run(const Bf16GemmNtProblem& problem, const Context& context);
void bf16_gemm_nt_sm90(const Bf16GemmNtProblem& problem, const Bf16GemmNtArgs& args, const Context& context);
}  // namespace fathom
