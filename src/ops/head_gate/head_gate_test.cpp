#include "fathom/ops/head_gate.hpp"

#include <limits>

#include "ops/gemm_test.hpp"

namespace fathom {
namespace {

void check(const HeadGateProblem& p, const Context& context) {
  SCOPED_TRACE(problem_string(p));
  Random random(p.tokens + p.heads + p.hidden);
  const Strided x = strided(random.normal(p.x, {p.tokens, p.hidden}), 1);
  const Tensor w = random.normal(p.w, {p.heads, p.hidden});
  const Tensor q_scale = random.uniform(DType::f32, {p.tokens, p.heads}, 0.01, 0.1);
  Tensor out = poisoned(DType::f32, {p.tokens, p.heads});
  HeadGateArgs args{.x = x.view, .w = w, .out = out, .softmax_scale = 0.3f};
  if (p.q_scale) args.q_scale = q_scale;
  head_gate(args, context);
  const GemmOracle oracle = gemm_oracle(
      p.tokens, p.heads, p.hidden, DType::f32,
      [&](std::int64_t i, std::int64_t c) { return static_cast<double>(at(x.view, i, c)); },
      [&](std::int64_t j, std::int64_t c) { return static_cast<double>(at(w, j, c)); },
      [](std::int64_t, std::int64_t) { return 0.0; });
  Tensor expected = poisoned(DType::f32, {p.tokens, p.heads});
  Tensor bound = poisoned(DType::f32, {p.tokens, p.heads});
  for (std::int64_t i = 0; i < p.tokens * p.heads; ++i) {
    const double scale = static_cast<double>(args.softmax_scale) / std::sqrt(static_cast<double>(p.heads)) *
                         (p.q_scale ? q_scale[i] : 1);
    expected.set(i, oracle.expected[i] * scale);
    bound.set(i, oracle.bound[i] * scale * 1.1);
  }
  expect_within(out, expected, bound);
}

TEST(HeadGate, AgreesWithOracle) {
  for (const DType x : {DType::bf16, DType::f32}) {
    for (const HeadGateProblem& p : {
             HeadGateProblem{.tokens = 1, .heads = 32, .hidden = 256, .x = x},
             HeadGateProblem{.tokens = 5, .heads = 64, .hidden = 1000, .x = x},
             HeadGateProblem{.tokens = 40, .heads = 3, .hidden = 129, .x = x, .q_scale = false},
             HeadGateProblem{.tokens = 0, .heads = 4, .hidden = 8, .x = x},
         }) {
      check(p, test_context());
      check(p, forced_context("ref:any"));
    }
  }
}

TEST(HeadGate, TakesF32Weights) {
  const HeadGateProblem p{.tokens = 3, .heads = 32, .hidden = 200, .x = DType::f32, .w = DType::f32};
  check(p, test_context());
  check(p, forced_context("ref:any"));
}

TEST(HeadGate, TokensDoNotDependOnOneAnother) {
  for (const DType dtype : {DType::bf16, DType::f32}) {
    Random random(4);
    const Tensor x = random.normal(dtype, {50, 300});
    const Tensor w = random.normal(DType::bf16, {64, 300});
    const Tensor q_scale = random.uniform(DType::f32, {50, 64}, 0.01, 0.1);
    Tensor together = poisoned(DType::f32, {50, 64});
    Tensor alone = poisoned(DType::f32, {50, 64});
    head_gate({.x = x, .w = w, .q_scale = q_scale, .out = together}, test_context(2));
    for (std::int64_t t = 0; t < 50; ++t) {
      head_gate({.x = x.view().rows(t, t + 1),
                 .w = w,
                 .q_scale = q_scale.view().rows(t, t + 1),
                 .out = alone.view().rows(t, t + 1)},
                test_context(1));
    }
    expect_same_bytes(alone, together);
  }
}

TEST(HeadGate, RejectsBadArguments) {
  const Tensor x = poisoned(DType::bf16, {2, 8});
  const Tensor w = poisoned(DType::bf16, {4, 8});
  const Tensor out = poisoned(DType::f32, {2, 4});
  EXPECT_ERROR(
      InvalidArgument, "head_gate: 'q_scale' must have shape [2,4], got [2,3]",
      head_gate({.x = x, .w = w, .q_scale = poisoned(DType::f32, {2, 3}), .out = out}, test_context()));
  EXPECT_ERROR(InvalidArgument, "head_gate: 'w' must be bf16 where x is bf16, got f32",
               head_gate({.x = x, .w = poisoned(DType::f32, {4, 8}), .out = out}, test_context()));
  EXPECT_ERROR(
      InvalidArgument, "head_gate: 'softmax_scale' must be finite",
      head_gate({.x = x, .w = w, .out = out, .softmax_scale = std::numeric_limits<float>::infinity()},
                test_context()));
}

}  // namespace
}  // namespace fathom
