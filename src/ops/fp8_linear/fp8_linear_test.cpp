#include "fathom/ops/fp8_linear.hpp"

#include "fathom/ops/fp8_gemm_nt.hpp"
#include "fathom/ops/quantize_groups.hpp"
#include "ops/gemm_test.hpp"

namespace fathom {
namespace {

struct Operands {
  explicit Operands(const Fp8LinearProblem& p, std::int64_t seed = 1)
      : random(seed),
        x(strided(random.normal(p.x, {p.m, p.k}), 3)),
        w(strided(random.normal(DType::f8e4m3, {p.n, p.k}, 60), 5)),
        w_scale(random.uniform(DType::f32, {scale_groups(p.n), scale_groups(p.k)}, 1e-3, 2e-2)),
        q(poisoned(DType::f8e4m3, {p.m, p.k})),
        q_scale(poisoned(DType::f32, {p.m, scale_groups(p.k)})) {}

  Fp8LinearArgs args(const Fp8LinearProblem& p, const TensorView& out) const {
    return {.x = x.view,
            .w = w.view,
            .w_scale = w_scale,
            .out = out,
            .q = q,
            .q_scale = q_scale,
            .rule = p.rule,
            .scale_format = p.scale_format,
            .accumulate = p.accumulate};
  }

  Random random;
  Strided x;
  Strided w;
  Tensor w_scale;
  Tensor q;
  Tensor q_scale;
};

// The oracle sees what quantize_groups gives, in double.
void check(const Fp8LinearProblem& p, const Context& context) {
  SCOPED_TRACE(problem_string(p));
  Operands operands(p, p.m + 3 * p.n + 7 * p.k);
  const Tensor base = operands.random.normal(DType::f32, {p.m, p.n});
  const Tensor nan = poisoned(p.out, {p.m, p.n});
  const Strided out = strided(p.accumulate ? base : nan, 2);
  fp8_linear(operands.args(p, out.view), context);
  const Tensor q = poisoned(DType::f8e4m3, {p.m, p.k});
  const Tensor scale = poisoned(DType::f32, {p.m, scale_groups(p.k)});
  quantize_groups(
      {.x = operands.x.view, .q = q, .scale = scale, .rule = p.rule, .scale_format = p.scale_format},
      test_context());
  const GemmOracle oracle = gemm_oracle(
      p.m, p.n, p.k, p.out,
      [&](std::int64_t i, std::int64_t c) { return q[i * p.k + c] * scale[i * scale_groups(p.k) + c / 128]; },
      [&](std::int64_t j, std::int64_t c) {
        return static_cast<double>(at(operands.w.view, j, c)) *
               static_cast<double>(at(operands.w_scale, j / 128, c / 128));
      },
      [&](std::int64_t i, std::int64_t j) { return p.accumulate ? base[i * p.n + j] : 0.0; });
  expect_within(out.view, oracle.expected, oracle.bound);
  for (std::int64_t i = 0; i < p.m; ++i) {
    for (std::int64_t j = p.n; j < p.n + 2; ++j) EXPECT_TRUE(std::isnan(out.buffer[i * (p.n + 2) + j]));
  }
}

TEST(Fp8Linear, AgreesWithOracle) {
  for (const Fp8LinearProblem& p : {
           Fp8LinearProblem{.m = 1, .n = 200, .k = 256},
           Fp8LinearProblem{.m = 3, .n = 17, .k = 129, .x = DType::f32, .out = DType::f32},
           Fp8LinearProblem{.m = 20, .n = 130, .k = 500, .rule = QuantRule::indexer},
           Fp8LinearProblem{.m = 5,
           .n = 64,
           .k = 384,
           .scale_format = ScaleFormat::ue8m0,
           .out = DType::f32,
           .accumulate = true},
       }) {
    check(p, test_context());
    check(p, forced_context("ref:any"));
  }
}

TEST(Fp8Linear, HasTheBytesOfItsSteps) {
  const Fp8LinearProblem p{.m = 9, .n = 150, .k = 300, .out = DType::f32, .decode = true};
  const Operands operands(p);
  const Tensor got = poisoned(DType::f32, {p.m, p.n});
  const Tensor expected = poisoned(DType::f32, {p.m, p.n});
  fp8_linear(operands.args(p, got), test_context());
  const Tensor q = poisoned(DType::f8e4m3, {p.m, p.k});
  const Tensor scale = poisoned(DType::f32, {p.m, 3});
  quantize_groups({.x = operands.x.view, .q = q, .scale = scale}, test_context());
  fp8_gemm_nt({.a = q, .a_scale = scale, .b = operands.w.view, .b_scale = operands.w_scale, .out = expected},
              test_context());
  expect_same_bytes(got, expected);
}

TEST(Fp8Linear, EmptySizes) {
  for (const Context* context : {&test_context(), &forced_context("ref:any")}) {
    for (const Fp8LinearProblem& p :
         {Fp8LinearProblem{.m = 0, .n = 8, .k = 8}, Fp8LinearProblem{.m = 3, .n = 0, .k = 8}}) {
      const Operands operands(p);
      fp8_linear(operands.args(p, poisoned(DType::bf16, {p.m, p.n})), *context);
    }
  }
}

TEST(Fp8Linear, RejectsBadArguments) {
  const Fp8LinearProblem p{.m = 4, .n = 300, .k = 260};
  const Operands operands(p);
  const Tensor out = poisoned(DType::bf16, {4, 300});
  auto with = [&](auto change) {
    Fp8LinearArgs args = operands.args(p, out);
    change(args);
    fp8_linear(args, test_context());
  };
  EXPECT_ERROR(InvalidArgument, "fp8_linear: 'w' must have shape [*,260], got [300,259]",
               with([&](auto& args) { args.w.shape[1] = 259; }));
  EXPECT_ERROR(InvalidArgument, "fp8_linear: 'w_scale' must have shape [3,3], got [3,2]",
               with([&](auto& args) { args.w_scale.shape[1] = 2; }));
  EXPECT_ERROR(InvalidArgument, "fp8_linear: 'q' must be f8e4m3, got bf16",
               with([&](auto& args) { args.q.dtype = DType::bf16; }));
  EXPECT_ERROR(InvalidArgument, "fp8_linear: 'q_scale' must have shape [4,3], got [4,1]",
               with([&](auto& args) { args.q_scale.shape[1] = 1; }));
  EXPECT_ERROR(InvalidArgument, "fp8_linear: 'out' must be f32, got bf16",
               with([&](auto& args) { args.accumulate = true; }));
  EXPECT_ERROR(InvalidArgument, "fp8_linear: 'x' must be",
               with([&](auto& args) { args.x.dtype = DType::f8e4m3; }));
}

}  // namespace
}  // namespace fathom
