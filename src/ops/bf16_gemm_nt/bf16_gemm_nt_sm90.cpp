#include "ops/bf16_gemm_nt/bf16_gemm_nt_impl.hpp"
#include "ops/kernels.hpp"
#include "ops/sm90_gemm.hpp"

namespace fathom {
namespace {

Sm90GemmShape shape_of(const Bf16GemmNtProblem& problem) {
  return {.fp8 = false, .decode = problem.decode, .m = problem.m, .n = problem.n, .k = problem.k};
}

}  // namespace

Verdict bf16_gemm_nt_sm90_can_run(const Bf16GemmNtProblem& problem, const Context& context) {
  if (problem.accumulate && problem.out != DType::f32)
    return decline("needs an f32 out to accumulate, got bf16");
  return sm90_gemm_verdict(shape_of(problem), problem.aligned, context);
}

void bf16_gemm_nt_sm90(const Bf16GemmNtProblem& problem, const Bf16GemmNtArgs& args, const Context& context) {
  run_sm90_gemm(shape_of(problem), {.a = args.a, .b = args.b, .out = args.out, .accumulate = args.accumulate},
                context);
}

KernelSources bf16_gemm_nt_kernels;
std::vector<jit::Source> bf16_gemm_nt_kernels(std::string_view problem, const cuda::DeviceInfo& device) {
  return gemm_sources(shape_of(parse_problem<Bf16GemmNtProblem>(problem)), device);
}

}  // namespace fathom
