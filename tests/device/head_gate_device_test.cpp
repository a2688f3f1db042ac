// head_gate on CUDA tensors against an oracle in double.
#include "fathom/ops/head_gate.hpp"
#include "on_device.hpp"

namespace fathom {
namespace {

void check(const HeadGateProblem& p, const std::string& implementation, std::int64_t padding) {
  SCOPED_TRACE(problem_string(p) + " " + implementation);
  Random random(p.tokens + p.heads + p.hidden);
  const Tensor x = random.normal(p.x, {p.tokens, p.hidden});
  const Tensor w = random.normal(p.w, {p.heads, p.hidden});
  const Tensor q_scale = random.uniform(DType::f32, {p.tokens, p.heads}, 0.01, 0.1);
  const OnDevice device_x(strided(x, padding));
  const OnDevice device_w(strided(w, padding));
  const OnDevice device_scale(strided(q_scale, padding / 8));
  const Strided before = strided(poisoned(DType::f32, {p.tokens, p.heads}), padding / 2);
  const OnDevice out(before);
  HeadGateArgs args{.x = device_x, .w = device_w, .out = out, .softmax_scale = 0.3f, .decode = p.decode};
  if (p.q_scale) args.q_scale = device_scale;
  head_gate(args, device_context("head_gate=" + implementation));
  cuda::synchronize(device_context());
  const GemmOracle oracle = gemm_oracle(
      p.tokens, p.heads, p.hidden, DType::f32,
      [&](std::int64_t i, std::int64_t c) { return x[i * p.hidden + c]; },
      [&](std::int64_t j, std::int64_t c) { return w[j * p.hidden + c]; },
      [](std::int64_t, std::int64_t) { return 0.0; });
  Tensor expected(DType::f32, {p.tokens, p.heads});
  Tensor bound(DType::f32, {p.tokens, p.heads});
  for (std::int64_t i = 0; i < p.tokens * p.heads; ++i) {
    const double factor = 0.3f / std::sqrt(static_cast<double>(p.heads)) * (p.q_scale ? q_scale[i] : 1.0);
    expected.set(i, oracle.expected[i] * factor);
    bound.set(i, oracle.bound[i] * factor * 4);  // tensor cores may add in fewer bits than an f32 sum
  }
  const Strided got = out.download();
  expect_within(got.view, expected, bound);
  const std::int64_t width = p.heads + padding / 2;
  for (std::int64_t i = 0; i < p.tokens; ++i) {
    for (std::int64_t j = p.heads; j < width; ++j) EXPECT_TRUE(std::isnan(got.buffer[i * width + j]));
  }
}

TEST(HeadGateOnDevice, AgreesWithOracle) {
  for (const std::string& implementation : cuda_implementations("head_gate")) {
    for (const bool decode : {true, false}) {
      check({.tokens = 1, .heads = 64, .hidden = 7168, .decode = decode}, implementation, 0);
      check({.tokens = 33, .heads = 64, .hidden = 2048, .decode = decode}, implementation, 8);
      check({.tokens = 150, .heads = 20, .hidden = 1000, .q_scale = false, .decode = decode}, implementation,
            16);
      check({.tokens = 70, .heads = 133, .hidden = 520, .decode = decode}, implementation, 8);
    }
  }
  check({.tokens = 9, .heads = 64, .hidden = 300, .x = DType::f32, .w = DType::f32}, "cuda:simt", 3);
  check({.tokens = 9, .heads = 5, .hidden = 77, .x = DType::f32}, "cuda:simt", 1);
}

TEST(HeadGateOnDevice, BytesOfATokenAreFixed) {
  constexpr std::int64_t kTokens = 70;
  Random random(5);
  const OnDevice x(random.normal(DType::bf16, {kTokens, 2048}));
  const OnDevice w(random.normal(DType::bf16, {64, 2048}));
  const OnDevice q_scale(random.uniform(DType::f32, {kTokens, 64}, 0.01, 0.1));
  for (const std::string& implementation : cuda_implementations("head_gate")) {
    for (const bool decode : {true, false}) {
      SCOPED_TRACE(implementation);
      const Context& context = device_context("head_gate=" + implementation);
      const auto bytes = [&](std::int64_t rows) {
        const OnDevice out(poisoned(DType::f32, {kTokens, 64}));
        for (std::int64_t first = 0; first < kTokens; first += rows) {
          const std::int64_t last = std::min(kTokens, first + rows);
          head_gate({.x = x.view().rows(first, last),
                     .w = w,
                     .q_scale = q_scale.view().rows(first, last),
                     .out = out.view().rows(first, last),
                     .decode = decode},
                    context);
        }
        cuda::synchronize(context);
        return out.download();
      };
      const Strided together = bytes(kTokens);
      for (const std::int64_t rows : {1, 9, 64}) expect_same_bytes(bytes(rows).buffer, together.buffer);
      for (int i = 0; i < 50 && !HasFailure(); ++i) expect_same_bytes(bytes(kTokens).buffer, together.buffer);
    }
  }
}

}  // namespace
}  // namespace fathom
