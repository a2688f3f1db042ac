// fp8_linear on CUDA tensors: one launch gives the bytes of two, whose products other tests compare with an
// oracle.
#include "fathom/ops/bf16_gemm_nt.hpp"
#include "fathom/ops/fp8_linear.hpp"
#include "on_device.hpp"

namespace fathom {
namespace {

struct Operands {
  Operands(const Fp8LinearProblem& p, std::int64_t seed, std::int64_t padding)
      : random(seed),
        x_values(random.normal(p.x, {p.m, p.k})),
        x(strided(x_values, padding)),
        w(strided(random.normal(DType::f8e4m3, {p.n, p.k}, 60), (16 - p.k % 16) % 16 + 2 * padding)),
        w_scale(random.uniform(DType::f32, {scale_groups(p.n), scale_groups(p.k)}, 1e-3, 2e-2)),
        q(strided(Tensor(DType::f8e4m3, {p.m, p.k}), (16 - p.k % 16) % 16)),
        q_scale(Tensor(DType::f32, {p.m, scale_groups(p.k)})),
        problem(p) {}

  Fp8LinearArgs args(const TensorView& out, std::int64_t first, std::int64_t last) const {
    return {.x = x.view().rows(first, last),
            .w = w,
            .w_scale = w_scale,
            .out = out,
            .q = q.view().rows(first, last),
            .q_scale = q_scale.view().rows(first, last),
            .rule = problem.rule,
            .scale_format = problem.scale_format,
            .accumulate = problem.accumulate,
            .decode = problem.decode};
  }

  Random random;
  Tensor x_values;
  OnDevice x, w, w_scale, q, q_scale;
  Fp8LinearProblem problem;
};

constexpr const char* kFused = "fp8_linear=sm90:fused";
constexpr const char* kSteps = "fp8_linear=cuda:steps";

Strided result(const Operands& operands, const Strided& before, const char* implementation) {
  const OnDevice out(before);
  fp8_linear(operands.args(out, 0, operands.problem.m), device_context(implementation));
  cuda::synchronize(device_context(implementation));
  return out.download();
}

void check(const Fp8LinearProblem& p, std::int64_t seed, std::int64_t padding) {
  SCOPED_TRACE(problem_string(p) + " seed " + std::to_string(seed));
  Operands operands(p, seed, padding);
  const Tensor base = operands.random.normal(p.out, {p.m, p.n});
  const Tensor nan = poisoned(p.out, {p.m, p.n});
  const Strided before = strided(p.accumulate ? base : nan, padding / 2);
  expect_same_bytes(result(operands, before, kFused).buffer, result(operands, before, kSteps).buffer);
}

class Fp8LinearOnDevice : public ::testing::Test {
 protected:
  void SetUp() override {
    try {
      check({.m = 1, .n = 8, .k = 128}, 1, 0);
    } catch (const NoImplementation& error) {
      GTEST_SKIP() << error.what();
    }
  }
};

TEST_F(Fp8LinearOnDevice, HasTheBytesOfItsSteps) {
  Random random(std::random_device{}());
  for (int i = 0; i < 60 && !HasFailure(); ++i) {
    const bool accumulate = random.integer(0, 3) == 0;
    constexpr QuantRule kRules[] = {QuantRule::per_token_group, QuantRule::indexer, QuantRule::silu_mul};
    const QuantRule rule = kRules[random.integer(0, 2)];
    check({.m = random.integer(1, 16),
           .n = random.integer(1, 700),
           .k = 8 * random.integer(1, 400),
           .rule = rule,
           .scale_format = rule == QuantRule::silu_mul ? ScaleFormat::ue8m0 : ScaleFormat::f32,
           .out = accumulate || random.integer(0, 1) == 1 ? DType::f32 : DType::bf16,
           .accumulate = accumulate,
           .decode = random.integer(0, 1) == 1},
          random.integer(0, 1 << 30), 8 * random.integer(0, 3));
  }
}

TEST_F(Fp8LinearOnDevice, ShapesOfTheModel) {
  check({.m = 1, .n = 2112, .k = 7168, .decode = true}, 1, 0);
  check({.m = 16, .n = 2112, .k = 7168}, 2, 0);
  check({.m = 8, .n = 18000, .k = 512, .decode = true}, 3, 0);
}

TEST_F(Fp8LinearOnDevice, ValuesThatAreNotFinite) {
  const Fp8LinearProblem p{.m = 5, .n = 100, .k = 512, .out = DType::f32, .decode = true};
  Operands operands(p, 3, 0);
  const double odd[] = {NAN, INFINITY, -INFINITY, 0, 3e38};
  for (std::int64_t i = 0; i < 5; ++i) operands.x_values.set(i * 512 + 37 * i, odd[i]);
  for (std::int64_t c = 0; c < 128; ++c) operands.x_values.set(3 * 512 + c, 0);  // a group of zeros
  operands.x.upload(operands.x_values);
  const Strided before = strided(poisoned(DType::f32, {5, 100}), 0);
  expect_same_bytes(result(operands, before, kFused).buffer, result(operands, before, kSteps).buffer);
}

TEST_F(Fp8LinearOnDevice, BytesAreFixed) {
  for (const bool decode : {true, false}) {
    const Fp8LinearProblem p{.m = 16, .n = 200, .k = 2048, .out = DType::f32, .decode = decode};
    const Operands operands(p, 7, 0);
    const Strided before = strided(poisoned(DType::f32, {p.m, p.n}), 0);
    const Strided expected = result(operands, before, kFused);
    for (int i = 0; i < 200 && !HasFailure(); ++i)
      expect_same_bytes(result(operands, before, kFused).buffer, expected.buffer);
    for (const std::int64_t rows : {1, 3, 8, 9}) {
      const OnDevice out(before);
      for (std::int64_t first = 0; first < p.m; first += rows) {
        const std::int64_t last = std::min(p.m, first + rows);
        fp8_linear(operands.args(out.view().rows(first, last), first, last), device_context(kFused));
      }
      cuda::synchronize(device_context(kFused));
      expect_same_bytes(out.download().buffer, expected.buffer);
    }
  }
}

// Each product reads what the one before has written, and is started before that has ended. Recorded and
// replayed.
TEST(DependentLaunch, HasTheBytesOfOneAfterTheOther) {
  ContextOptions options = device_context().options();
  for (const std::int64_t m : {2, 16, 100}) {
    for (const bool decode : {true, false}) {
      SCOPED_TRACE(testing::Message() << m << " " << decode);
      constexpr std::int64_t kWidth = 512;
      Random random(m);
      const OnDevice x(random.normal(DType::bf16, {m, kWidth}));
      const OnDevice w(random.normal(DType::bf16, {kWidth, kWidth}, 0.04));
      const OnDevice w8(random.normal(DType::f8e4m3, {kWidth, kWidth}, 60));
      const OnDevice w8_scale(random.uniform(DType::f32, {4, 4}, 5e-4, 1e-3));
      const OnDevice q(Tensor(DType::f8e4m3, {m, kWidth}));
      const OnDevice q_scale(Tensor(DType::f32, {m, 4}));
      const auto run = [&](const TensorView& a, const TensorView& b, const TensorView& sum,
                           const Context& context) {
        bf16_gemm_nt({.a = x, .b = w, .out = a, .decode = decode}, context);
        for (int i = 0; i < 10; ++i) {
          bf16_gemm_nt({.a = a, .b = w, .out = b, .decode = decode}, context);
          fp8_linear(
              {.x = b, .w = w8, .w_scale = w8_scale, .out = a, .q = q, .q_scale = q_scale, .decode = decode},
              context);
          bf16_gemm_nt({.a = b, .b = w, .out = sum, .accumulate = true, .decode = decode}, context);
        }
      };
      std::vector<Strided> results;
      for (const bool dependent : {false, true}) {
        options.dependent_launch = dependent;
        options.force_implementation = m <= 16 ? kFused : "";
        const Context context(options);
        const cuda::Stream stream(context);
        const Context on_stream = context.on_stream(stream.handle());
        const OnDevice a(poisoned(DType::bf16, {m, kWidth}));
        const OnDevice b(poisoned(DType::bf16, {m, kWidth}));
        const Tensor zero(DType::f32, {m, kWidth});
        std::memset(zero.as<void>(), 0, static_cast<std::size_t>(zero.count()) * 4);
        const OnDevice sum(zero);
        run(a, b, sum, on_stream);
        stream.synchronize();
        results.push_back(sum.download());
        const cuda::Graph graph = cuda::Graph::capture(on_stream, [&] { run(a, b, sum, on_stream); });
        for (int i = 0; i < 20; ++i) {
          sum.upload(zero);
          graph.launch(on_stream);
          stream.synchronize();
          expect_same_bytes(sum.download().buffer, results[0].buffer);
        }
      }
      expect_same_bytes(results[1].buffer, results[0].buffer);
      EXPECT_TRUE(std::isfinite(results[0].buffer[0]));
    }
  }
}

}  // namespace
}  // namespace fathom
