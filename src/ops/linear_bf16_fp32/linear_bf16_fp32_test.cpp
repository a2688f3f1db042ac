#include "fathom/ops/linear_bf16_fp32.hpp"

#include "ops/gemm_test.hpp"

namespace fathom {
namespace {

Context context_with(const std::string& algorithm) {
  return Context({.threads = 2, .linear_algorithm = algorithm});
}

TEST(LinearBf16Fp32, AgreesWithOracleUnderEveryHostAlgorithm) {
  for (const auto& [m, n, k] :
       {std::array<std::int64_t, 3>{1, 256, 256}, {5, 33, 129}, {40, 70, 1000}, {0, 4, 8}}) {
    Random random(m + n + k);
    const Strided x = strided(random.normal(DType::bf16, {m, k}), 1);
    const Strided w = strided(random.normal(DType::bf16, {n, k}), 2);
    const GemmOracle oracle = gemm_oracle(
        m, n, k, DType::f32,
        [&](std::int64_t i, std::int64_t c) { return static_cast<double>(at(x.view, i, c)); },
        [&](std::int64_t j, std::int64_t c) { return static_cast<double>(at(w.view, j, c)); },
        [](std::int64_t, std::int64_t) { return 0.0; });
    for (const char* algorithm : {"auto", "cpu"}) {
      Tensor out = poisoned(DType::f32, {m, n});
      linear_bf16_fp32({.x = x.view, .w = w.view, .out = out}, context_with(algorithm));
      expect_within(out, oracle.expected, oracle.bound);
    }
    Tensor out = poisoned(DType::f32, {m, n});
    linear_bf16_fp32({.x = x.view, .w = w.view, .out = out}, forced_context("ref:any"));
    expect_within(out, oracle.expected, oracle.bound);
  }
}

TEST(LinearBf16Fp32, AlgorithmsHaveNames) {
  EXPECT_EQ(parse_linear_algorithm("auto"), LinearAlgorithm::automatic);
  EXPECT_EQ(parse_linear_algorithm("native"), LinearAlgorithm::native);
  EXPECT_EQ(parse_linear_algorithm("deep_gemm"), LinearAlgorithm::native);
  EXPECT_EQ(parse_linear_algorithm("cublaslt"), LinearAlgorithm::cublaslt);
  EXPECT_EQ(parse_linear_algorithm("cublas"), LinearAlgorithm::cublaslt);
  EXPECT_EQ(parse_linear_algorithm("cpu"), LinearAlgorithm::cpu);
  for (const auto algorithm : {LinearAlgorithm::automatic, LinearAlgorithm::native, LinearAlgorithm::cublaslt,
                               LinearAlgorithm::cpu}) {
    EXPECT_EQ(parse_linear_algorithm(to_string(algorithm)), algorithm);
  }
}

TEST(LinearBf16Fp32, ContextRefusesBadNames) {
  EXPECT_ERROR(
      InvalidArgument,
      "no algorithm is named 'magic'; there are auto, native (or deep_gemm), cublaslt (or cublas), cpu",
      context_with("magic"));
  EXPECT_ERROR(InvalidArgument, "no algorithm is named ''", context_with(""));
  EXPECT_ERROR(NoImplementation, "algorithm 'aiter' needs an AMD Instinct GPU with ROCm",
               context_with("aiter"));
}

TEST(LinearBf16Fp32, GpuAlgorithmsDeclineHostTensors) {
  const Tensor x = poisoned(DType::bf16, {2, 8});
  const Tensor w = poisoned(DType::bf16, {3, 8});
  const Tensor out = poisoned(DType::f32, {2, 3});
  for (const char* algorithm : {"native", "deep_gemm"}) {
    EXPECT_ERROR(NoImplementation, "needs algorithm auto or cpu: the tensors are in host memory; got native",
                 linear_bf16_fp32({.x = x, .w = w, .out = out}, context_with(algorithm)));
  }
  EXPECT_ERROR(NoImplementation, "got cublaslt, which takes CUDA tensors",
               linear_bf16_fp32({.x = x, .w = w, .out = out}, context_with("cublas")));
}

TEST(LinearBf16Fp32, RejectsBadArguments) {
  const Tensor x = poisoned(DType::bf16, {2, 8});
  EXPECT_ERROR(InvalidArgument, "linear_bf16_fp32: 'out' must be f32, got bf16",
               linear_bf16_fp32({.x = x, .w = x, .out = poisoned(DType::bf16, {2, 2})}, test_context()));
  EXPECT_ERROR(InvalidArgument, "linear_bf16_fp32: 'w' must have shape [*,8], got [2,7]",
               linear_bf16_fp32({.x = x, .w = poisoned(DType::bf16, {2, 7}), .out = x}, test_context()));
}

}  // namespace
}  // namespace fathom
