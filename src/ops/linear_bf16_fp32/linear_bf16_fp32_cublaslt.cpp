#include "cuda/cublaslt_gemm.hpp"
#include "ops/dispatch.hpp"
#include "ops/linear_bf16_fp32/linear_bf16_fp32_impl.hpp"

namespace fathom {
namespace {

// A device's cuBLASLt, or why there is none: looked for once, when the algorithm is first named.
struct CublasLtOfDevice {
  std::string missing;
  std::unique_ptr<cuda::CublasLtGemm> gemm;
};

CublasLtOfDevice& cublaslt(const Context& context) {
  cuda::DeviceContext& device = cuda::device_context(context);
  return device.attached<CublasLtOfDevice>([&] {
    auto made = std::make_shared<CublasLtOfDevice>();
    cuda::CublasLtProbe probe = cuda::find_cublaslt();
    if (probe.library == nullptr) {
      made->missing = probe.detail;
    } else {
      made->gemm = std::make_unique<cuda::CublasLtGemm>(device, std::move(probe.library));
    }
    return made;
  });
}

}  // namespace

Verdict linear_bf16_fp32_cublaslt_can_run(const LinearBf16Fp32Problem& problem, const Context& context) {
  const LinearAlgorithm algorithm = parse_linear_algorithm(context.options().linear_algorithm);
  if (algorithm != LinearAlgorithm::cublaslt) {
    return decline("needs algorithm cublaslt, got " + std::string(to_string(algorithm)));
  }
  if (problem.k == 0) return decline("needs k of at least 1, got 0");
  const std::string& missing = cublaslt(context).missing;
  if (!missing.empty()) return decline("needs cuBLASLt, got " + missing);
  return accept;
}

void linear_bf16_fp32_cublaslt(const LinearBf16Fp32Problem& problem, const LinearBf16Fp32Args& args,
                               const Context& context) {
  if (problem.m == 0 || problem.n == 0 || context.compile_mode() == CompileMode::compile_only) return;
  cublaslt(context).gemm->run({.m = problem.m,
                               .n = problem.n,
                               .k = problem.k,
                               .a_row = args.x.step(0),
                               .b_row = args.w.step(0),
                               .out_row = args.out.step(0),
                               .out_type = cuda::kCuda32f},
                              args.x.data, args.w.data, args.out.data, context);
}

}  // namespace fathom
