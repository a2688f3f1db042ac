// linear_bf16_fp32 on CUDA tensors, by every algorithm.
#include <fmt/format.h>

#include <array>

#include "fathom/ops/linear_bf16_fp32.hpp"
#include "on_device.hpp"

namespace fathom {
namespace {

Context with_algorithm(const std::string& algorithm) {
  ContextOptions options = device_context().options();
  options.linear_algorithm = algorithm;
  return Context(options);
}

TEST(LinearOnDevice, AgreesWithOracleUnderEveryAlgorithm) {
  for (const char* algorithm : {"auto", "native", "cublaslt"}) {
    const Context context = with_algorithm(algorithm);
    for (const auto& [m, n, k, padding] : {std::array<std::int64_t, 4>{1, 256, 7168, 8},
                                           {16, 64, 7168, 0},
                                           {5, 40, 136, 8},
                                           {100, 72, 1000, 0},
                                           {0, 8, 8, 0},
                                           {8, 0, 8, 0},
                                           {3, 8, 0, 8}}) {
      SCOPED_TRACE(fmt::format("{} m={} n={} k={}", algorithm, m, n, k));
      Random random(m + n + k);
      const Tensor x = random.normal(DType::bf16, {m, k});
      const Tensor w = random.normal(DType::bf16, {n, k});
      const OnDevice device_x(strided(x, padding));
      const OnDevice device_w(strided(w, padding));
      const Strided before = strided(poisoned(DType::f32, {m, n}), 4);
      const OnDevice out(before);
      linear_bf16_fp32({.x = device_x, .w = device_w, .out = out}, context);
      cuda::synchronize(context);
      const GemmOracle oracle = gemm_oracle(
          m, n, k, DType::f32, [&](std::int64_t i, std::int64_t c) { return x[i * k + c]; },
          [&](std::int64_t j, std::int64_t c) { return w[j * k + c]; },
          [](std::int64_t, std::int64_t) { return 0.0; });
      Tensor bound(DType::f32,
                   {m, n});  // tensor cores may add in fewer bits than one f32 sum after the other
      for (std::int64_t i = 0; i < m * n; ++i) bound.set(i, 4 * oracle.bound[i]);
      const Strided got = out.download();
      if (k > 0) expect_within(got.view, oracle.expected, bound);
      for (std::int64_t i = 0; i < m && k == 0; ++i) {
        for (std::int64_t j = 0; j < n; ++j) EXPECT_EQ(at(got.view, i, j), 0.0f);
      }
      for (std::int64_t i = 0; i < m; ++i) {
        for (std::int64_t j = n; j < n + 4; ++j) EXPECT_TRUE(std::isnan(got.buffer[i * (n + 4) + j]));
      }
    }
  }
}

TEST(LinearOnDevice, AsTheGuideShows) {
  const Tensor host_x = tensor_of<float>(DType::bf16, {1, 3}, {1, 2, 3});
  const Tensor host_w = tensor_of<float>(DType::bf16, {2, 3}, {1, 1, 1, 0, 0, 2});
  Tensor host_out = poisoned(DType::f32, {1, 2});
  // [doc:begin device]
  const Context context(ContextOptions{.device = "cuda"});
  const cuda::DeviceBuffer x(context, 3 * 2);
  const cuda::DeviceBuffer w(context, 6 * 2);
  const cuda::DeviceBuffer out(context, 2 * 4);
  cuda::copy_to_device(context, x.data(), host_x.as<void>(), x.size());
  cuda::copy_to_device(context, w.data(), host_w.as<void>(), w.size());
  linear_bf16_fp32({.x = x.view(DType::bf16, {1, 3}),
                    .w = w.view(DType::bf16, {2, 3}),
                    .out = out.view(DType::f32, {1, 2})},
                   context);
  cuda::copy_to_host(context, host_out.as<void>(), out.data(), out.size());
  cuda::synchronize(context);
  // [doc:end device]
  EXPECT_EQ(host_out[0], 6);
  EXPECT_EQ(host_out[1], 6);
}

// What cuBLASLt has no kernel for is an error with the reason, not a wrong result.
TEST(LinearOnDevice, CublasLtRunsOrSaysWhyNot) {
  const Context context = with_algorithm("cublaslt");
  Random random(2);
  const Tensor x = random.normal(DType::bf16, {3, 129});
  const Tensor w = random.normal(DType::bf16, {7, 129});
  const OnDevice device_x(x, 2);
  const OnDevice device_w(w);
  const OnDevice out(poisoned(DType::f32, {3, 7}));
  try {
    linear_bf16_fp32({.x = device_x, .w = device_w, .out = out}, context);
  } catch (const NoImplementation& error) {
    EXPECT_NE(std::string(error.what()).find("cuBLASLt has no kernel"), std::string::npos) << error.what();
    return;
  }
  cuda::synchronize(context);
  Tensor expected = poisoned(DType::f32, {3, 7});
  linear_bf16_fp32({.x = x, .w = w, .out = expected}, test_context());
  expect_close(out.download().view, expected, {.relative = 1e-4, .absolute = 1e-3});
}

TEST(LinearOnDevice, CublasLtIsRecordedIntoAGraph) {
  const Context context = with_algorithm("cublaslt");
  const cuda::Stream stream(context);
  const Context on_stream = context.on_stream(stream.handle());
  Random random(3);
  const OnDevice x(random.normal(DType::bf16, {16, 7168}));
  const OnDevice w(random.normal(DType::bf16, {64, 7168}));
  const Tensor nan = poisoned(DType::f32, {16, 64});
  const OnDevice out(nan);
  linear_bf16_fp32({.x = x, .w = w, .out = out}, on_stream);
  stream.synchronize();
  const Strided expected = out.download();
  const cuda::Graph graph =
      cuda::Graph::capture(on_stream, [&] { linear_bf16_fp32({.x = x, .w = w, .out = out}, on_stream); });
  for (int i = 0; i < 2; ++i) {
    out.upload(nan);
    graph.launch(on_stream);
    stream.synchronize();
    expect_same_bytes(out.download().view, expected.view);
  }
}

}  // namespace
}  // namespace fathom
