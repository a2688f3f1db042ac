#include "ops/kernels.hpp"
#include "ops/linear_bf16_fp32/linear_bf16_fp32_impl.hpp"
#include "ops/sm90_gemm.hpp"

namespace fathom {
namespace {

Sm90GemmShape shape_of(const LinearBf16Fp32Problem& problem) {
  return {.fp8 = false, .decode = problem.decode, .m = problem.m, .n = problem.n, .k = problem.k};
}

}  // namespace

Verdict linear_bf16_fp32_sm90_can_run(const LinearBf16Fp32Problem& problem, const Context& context) {
  const LinearAlgorithm algorithm = parse_linear_algorithm(context.options().linear_algorithm);
  if (algorithm != LinearAlgorithm::automatic && algorithm != LinearAlgorithm::native) {
    return decline("needs algorithm auto or native, got " + std::string(to_string(algorithm)));
  }
  return sm90_gemm_verdict(shape_of(problem), problem.aligned, context);
}

void linear_bf16_fp32_sm90(const LinearBf16Fp32Problem& problem, const LinearBf16Fp32Args& args,
                           const Context& context) {
  run_sm90_gemm(shape_of(problem), {.a = args.x, .b = args.w, .out = args.out}, context);
}

KernelSources linear_bf16_fp32_kernels;
std::vector<jit::Source> linear_bf16_fp32_kernels(std::string_view problem, const cuda::DeviceInfo& device) {
  return gemm_sources(shape_of(parse_problem<LinearBf16Fp32Problem>(problem)), device);
}

}  // namespace fathom
