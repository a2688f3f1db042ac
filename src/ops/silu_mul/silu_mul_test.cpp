#include "fathom/ops/silu_mul.hpp"

#include <cmath>
#include <limits>

#include "ops/op_test.hpp"
#include "ops/silu.hpp"
#include "ops/silu_mul/silu_mul_impl.hpp"

namespace fathom {
namespace {

// The true value in double, as an oracle of the reference.
Tensor true_silu_mul(const Tensor& gate_up, std::int64_t rows, std::int64_t dim) {
  Tensor out(DType::f32, {rows, dim});
  for (std::int64_t i = 0; i < rows * dim; ++i) {
    const double g = gate_up[i / dim * 2 * dim + i % dim];
    const double u = gate_up[i / dim * 2 * dim + dim + i % dim];
    out.set(i, g / (1 + std::exp(-g)) * u);
  }
  return out;
}

TEST(SiluMul, AgreesWithDouble) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    Random random(3);
    const Tensor gate_up = random.normal(dtype, {7, 2 * 333}, 8);
    Tensor got = poisoned(DType::f32, {7, 333});
    silu_mul({.gate_up = gate_up, .out = got}, test_context());
    expect_close(got, true_silu_mul(gate_up, 7, 333), {.relative = 0x1p-21});
  }
}

TEST(SiluMul, RejectsBadArguments) {
  const Tensor gate_up = poisoned(DType::f32, {4, 16});
  const Tensor out = poisoned(DType::f32, {4, 7});
  EXPECT_ERROR(InvalidArgument, "silu_mul: 'gate_up' must have shape [4,14], got [4,16]",
               silu_mul({.gate_up = gate_up, .out = out}, test_context()));
}

TEST(SiluMul, ExponentialIsWithinTwoUlp) {
  double worst = 0;
  for (float t = -79.9f; t < 88.7f; t += 0.00123f) {
    const double expected = std::exp(static_cast<double>(t));
    const double got = exp_for_sigmoid(t);
    worst = std::max(worst, std::abs(got - expected) / expected);
  }
  EXPECT_LT(worst, 2 * 0x1p-23);
  EXPECT_EQ(exp_for_sigmoid(std::numeric_limits<float>::infinity()), std::numeric_limits<float>::infinity());
  EXPECT_EQ(exp_for_sigmoid(0), 1.0f);
}

}  // namespace
}  // namespace fathom
