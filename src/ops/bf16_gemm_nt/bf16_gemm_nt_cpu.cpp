#include "cpu/gemm.hpp"
#include "ops/bf16_gemm_nt/bf16_gemm_nt_impl.hpp"

namespace fathom {

void bf16_gemm_nt_cpu(const Bf16GemmNtProblem& problem, const Bf16GemmNtArgs& args, const Context& context) {
  cpu::Gemm gemm = cpu::Gemm::of(args.a, args.b, args.out);
  gemm.accumulate = problem.accumulate;
  cpu::gemm(gemm, context);
}

}  // namespace fathom
