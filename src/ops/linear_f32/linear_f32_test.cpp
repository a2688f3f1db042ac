#include "fathom/ops/linear_f32.hpp"

#include "ops/gemm_scales.hpp"
#include "ops/gemm_test.hpp"

namespace fathom {
namespace {

using Problem = LinearF32Problem;

struct Operands {
  explicit Operands(const Problem& p, std::int64_t seed = 1)
      : random(seed),
        x(strided(random.normal(DType::f32, {p.m, p.k}), 3)),
        w(strided(random.normal(p.w, {p.n, p.k}, p.w == DType::f8e4m3 ? 60 : 1), 5)),
        scale(random.uniform(DType::f32, {scale_groups(p.n), scale_groups(p.k)}, 1e-3, 2e-2)),
        scaled(p.w == DType::f8e4m3) {}
  LinearF32Args args(const TensorView& out, bool accumulate) const {
    return {.x = x.view,
            .w = w.view,
            .w_scale = scaled ? scale.view() : TensorView{},
            .out = out,
            .accumulate = accumulate};
  }
  Random random;
  Strided x;
  Strided w;
  Tensor scale;
  bool scaled;
};

void check(const Problem& p, const Context& context) {
  SCOPED_TRACE(problem_string(p));
  Operands operands(p, p.m + p.n * 7 + p.k * 31);
  const Tensor base = operands.random.normal(DType::f32, {p.m, p.n});
  const Tensor nan = poisoned(DType::f32, {p.m, p.n});
  const Strided out = strided(p.accumulate ? base : nan, 2);
  linear_f32(operands.args(out.view, p.accumulate), context);
  const GemmOracle expected = gemm_oracle(
      p.m, p.n, p.k, DType::f32,
      [&](std::int64_t i, std::int64_t k) { return static_cast<double>(at(operands.x.view, i, k)); },
      [&](std::int64_t j, std::int64_t k) {
        return static_cast<double>(at(operands.w.view, j, k)) *
               (operands.scaled ? static_cast<double>(at(operands.scale, j / 128, k / 128)) : 1.0);
      },
      [&](std::int64_t i, std::int64_t j) { return p.accumulate ? base[i * p.n + j] : 0.0; });
  if (p.k > 0) expect_within(out.view, expected.expected, expected.bound);
  for (std::int64_t i = 0; i < p.m; ++i) {
    for (std::int64_t j = 0; j < p.n; ++j) EXPECT_FALSE(std::isnan(at(out.view, i, j)));
    for (std::int64_t j = p.n; j < p.n + 2; ++j) EXPECT_TRUE(std::isnan(out.buffer[i * (p.n + 2) + j]));
  }
}

TEST(LinearF32, AgreesWithOracle) {
  for (const DType w : {DType::f32, DType::bf16, DType::f8e4m3}) {
    for (const Problem& p : {
             Problem{.m = 1, .n = 256, .k = 256, .w = w},
             Problem{.m = 2, .n = 17, .k = 129, .w = w, .accumulate = true},
             Problem{.m = 1, .n = 1, .k = 1, .w = w},
             Problem{.m = 5, .n = 130, .k = 384, .w = w},
             Problem{.m = 33, .n = 66, .k = 127, .w = w},
             Problem{.m = 70, .n = 200, .k = 1031, .w = w},
             Problem{.m = 0, .n = 8, .k = 128, .w = w},
             Problem{.m = 8, .n = 0, .k = 128, .w = w},
             Problem{.m = 3, .n = 20, .k = 0, .w = w},
         }) {
      check(p, test_context());
      check(p, forced_context("ref:any"));
    }
  }
}

TEST(LinearF32, RandomSizes) {
  Random random(std::random_device{}());
  constexpr DType kWeights[] = {DType::f32, DType::bf16, DType::f8e4m3};
  for (int i = 0; i < 40; ++i) {
    check({.m = random.integer(1, 40),
           .n = random.integer(1, 200),
           .k = random.integer(1, 500),
           .w = kWeights[random.integer(0, 2)],
           .accumulate = random.integer(0, 1) == 1},
          test_context());
  }
}

TEST(LinearF32, RowsDoNotDependOnOneAnother) {
  for (const DType w : {DType::f32, DType::bf16, DType::f8e4m3}) {
    const Problem p{.m = 150, .n = 210, .k = 391, .w = w};
    const Operands operands(p);
    Tensor together = poisoned(DType::f32, {p.m, p.n});
    const LinearF32Args all = operands.args(together, false);
    linear_f32(all, test_context(2));
    for (const std::int64_t rows : {1, 2, 3, 4, 5, 6, 7, 8, 16, 33, 150}) {
      SCOPED_TRACE(rows);
      Tensor parts = poisoned(DType::f32, {p.m, p.n});
      for (std::int64_t first = 0; first < p.m; first += rows) {
        const std::int64_t last = std::min(p.m, first + rows);
        LinearF32Args args = all;
        args.x = all.x.rows(first, last);
        args.out = parts.view().rows(first, last);
        linear_f32(args, test_context(rows % 2 == 0 ? 3 : 1));
      }
      expect_same_bytes(parts, together);
    }
  }
}

// A weight's code must come out exactly, subnormals included.
TEST(LinearF32, EveryFp8CodeIsExact) {
  Tensor codes(DType::f8e4m3, {256, 1});
  for (std::int64_t i = 0; i < 256; ++i) codes.as<std::uint8_t>()[i] = static_cast<std::uint8_t>(i);
  const Tensor x = tensor_of<float>(DType::f32, {1, 1}, {1});
  const Tensor scale = tensor_of<float>(DType::f32, {2, 1}, {1, 1});
  Tensor out = poisoned(DType::f32, {1, 256});
  linear_f32({.x = x, .w = codes, .w_scale = scale, .out = out}, test_context());
  for (std::int64_t i = 0; i < 256; ++i) {
    EXPECT_TRUE(out[i] == codes[i] || (std::isnan(out[i]) && std::isnan(codes[i]))) << i << ": " << out[i];
  }
}

TEST(LinearF32, RejectsBadArguments) {
  const Tensor x = poisoned(DType::f32, {2, 130});
  const Tensor w = poisoned(DType::f8e4m3, {4, 130});
  const Tensor out = poisoned(DType::f32, {2, 4});
  EXPECT_ERROR(InvalidArgument, "linear_f32: 'w_scale' must have shape [1,2], got []",
               linear_f32({.x = x, .w = w, .out = out}, test_context()));
  EXPECT_ERROR(InvalidArgument, "linear_f32: 'w_scale' must not be given unless w is f8e4m3, got [2,4]",
               linear_f32({.x = x, .w = x, .w_scale = out, .out = out}, test_context()));
  EXPECT_ERROR(InvalidArgument, "linear_f32: 'x' must be f32, got f8e4m3",
               linear_f32({.x = w, .w = w, .out = out}, test_context()));
}

}  // namespace
}  // namespace fathom
