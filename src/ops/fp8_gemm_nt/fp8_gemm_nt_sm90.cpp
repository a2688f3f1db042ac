#include "ops/fp8_gemm_nt/fp8_gemm_nt_impl.hpp"
#include "ops/kernels.hpp"
#include "ops/sm90_gemm.hpp"

namespace fathom {
namespace {

Sm90GemmShape shape_of(const Fp8GemmNtProblem& problem) {
  return {.fp8 = true,
          .decode = problem.decode,
          .m = problem.m,
          .n = problem.n,
          .k = problem.k,
          .row_scales = problem.row_b_scale || problem.packed_b_scale};
}

}  // namespace

Verdict fp8_gemm_nt_sm90_can_run(const Fp8GemmNtProblem& problem, const Context& context) {
  return sm90_gemm_verdict(shape_of(problem), problem.aligned, context);
}

void fp8_gemm_nt_sm90(const Fp8GemmNtProblem& problem, const Fp8GemmNtArgs& args, const Context& context) {
  run_sm90_gemm(shape_of(problem),
                {.a = args.a,
                 .a_scale = args.a_scale,
                 .b = args.b,
                 .b_scale = args.b_scale,
                 .out = args.out,
                 .accumulate = args.accumulate},
                context);
}

KernelSources fp8_gemm_nt_kernels;
std::vector<jit::Source> fp8_gemm_nt_kernels(std::string_view problem, const cuda::DeviceInfo& device) {
  return gemm_sources(shape_of(parse_problem<Fp8GemmNtProblem>(problem)), device);
}

}  // namespace fathom
