#include "fathom/ops/linear_bf16_fp32.hpp"

#include "ops/dispatch.hpp"
#include "ops/linear_bf16_fp32/linear_bf16_fp32_impl.hpp"
#include "ops/sm90_gemm.hpp"
#include "ops/validate.hpp"

namespace fathom {
namespace {

using Impl = Implementation<LinearBf16Fp32Problem, LinearBf16Fp32Args>;

Verdict host_tensors(const LinearBf16Fp32Problem&, const Context& context) {
  const LinearAlgorithm algorithm = parse_linear_algorithm(context.options().linear_algorithm);
  if (algorithm == LinearAlgorithm::automatic || algorithm == LinearAlgorithm::cpu) return accept;
  return decline("needs algorithm auto or cpu: the tensors are in host memory; got " +
                 std::string(to_string(algorithm)) + ", which takes CUDA tensors");
}

Verdict cuda_tensors(const LinearBf16Fp32Problem& problem, const Context& context) {
  const LinearAlgorithm algorithm = parse_linear_algorithm(context.options().linear_algorithm);
  if (algorithm == LinearAlgorithm::automatic || algorithm == LinearAlgorithm::native) return accept;
  if (algorithm == LinearAlgorithm::cublaslt && problem.k == 0) return accept;  // zeros, whoever writes them
  return decline("needs algorithm auto or native, got " + std::string(to_string(algorithm)));
}

// Best first for each device. The last of each takes every valid problem that names no other
// algorithm.
constexpr Impl kImplementations[] = {
    {"sm90:wgmma", linear_bf16_fp32_sm90_can_run, linear_bf16_fp32_sm90, /*fallback=*/false,
     DeviceKind::cuda},
    {"cuda:cublaslt", linear_bf16_fp32_cublaslt_can_run, linear_bf16_fp32_cublaslt, false, DeviceKind::cuda},
    {"cuda:simt", cuda_tensors, linear_bf16_fp32_simt, /*fallback=*/true, DeviceKind::cuda},
    {"cpu:simd", host_tensors, linear_bf16_fp32_cpu},
    {"ref:any", host_tensors, linear_bf16_fp32_ref, /*fallback=*/true},
};

LinearBf16Fp32Problem validate(const LinearBf16Fp32Args& args, Device device) {
  const Expect expect{LinearBf16Fp32Problem::op, device};
  expect.rank("x", args.x, 2);
  expect.rank("w", args.w, 2);
  const LinearBf16Fp32Problem problem{
      .m = args.x.size(0),
      .n = args.w.size(0),
      .k = args.x.size(1),
      .decode = args.decode,
      .aligned = device.kind == DeviceKind::host || (rows_suit_tma(args.x) && rows_suit_tma(args.w))};
  expect.tensor("x", args.x, {DType::bf16}, {-1, -1});
  expect.tensor("w", args.w, {DType::bf16}, {-1, problem.k});
  expect.tensor("out", args.out, {DType::f32}, {problem.m, problem.n});
  return problem;
}

struct AlgorithmName {
  std::string_view name;
  LinearAlgorithm algorithm;
};
// The first name of an algorithm is its own; deep_gemm and cublas are what other stacks call two of them.
constexpr AlgorithmName kAlgorithms[] = {
    {"auto", LinearAlgorithm::automatic},    {"native", LinearAlgorithm::native},
    {"cublaslt", LinearAlgorithm::cublaslt}, {"cpu", LinearAlgorithm::cpu},
    {"deep_gemm", LinearAlgorithm::native},  {"cublas", LinearAlgorithm::cublaslt},
};

}  // namespace

std::string_view to_string(LinearAlgorithm algorithm) {
  for (const AlgorithmName& row : kAlgorithms) {
    if (row.algorithm == algorithm) return row.name;
  }
  return "?";
}

LinearAlgorithm parse_linear_algorithm(std::string_view name) {
  for (const AlgorithmName& row : kAlgorithms) {
    if (row.name == name) return row.algorithm;
  }
  if (name == "aiter") {
    throw NoImplementation(
        "linear_bf16_fp32: algorithm 'aiter' needs an AMD Instinct GPU with ROCm, which Fathom does not run "
        "on; there are auto, native, cublaslt, cpu");
  }
  throw InvalidArgument("linear_bf16_fp32: no algorithm is named '" + std::string(name) +
                        "'; there are auto, native (or deep_gemm), cublaslt (or cublas), cpu");
}

void check_linear_algorithm(std::string_view name) { parse_linear_algorithm(name); }

extern const OpInfo linear_bf16_fp32_info;
const OpInfo linear_bf16_fp32_info = make_op_info("bf16 linear layer with an f32 result, by named algorithm",
                                                  LinearBf16Fp32Problem{}, kImplementations);

void linear_bf16_fp32(const LinearBf16Fp32Args& args, const Context& context) {
  dispatch(kImplementations, validate, args, context);
}

}  // namespace fathom
