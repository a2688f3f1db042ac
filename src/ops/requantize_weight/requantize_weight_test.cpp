#include "fathom/ops/requantize_weight.hpp"

#include <cmath>
#include <limits>

#include "fathom/ops/quantize_weight.hpp"
#include "ops/op_test.hpp"

namespace fathom {
namespace {

Tensor random_codes(Random& random, std::initializer_list<std::int64_t> shape, bool with_nan) {
  Tensor w(DType::f8e4m3, shape);
  for (std::int64_t i = 0; i < w.count(); ++i) {
    auto code = static_cast<std::uint8_t>(random.integer(0, 255));
    if (!with_nan && (code & 0x7f) == 0x7f) code = 0x7e;
    w.as<std::uint8_t>()[i] = code;
  }
  return w;
}

// Dequantised to bf16 by hand, then quantize_weight: the same bytes.
TEST(RequantizeWeight, EqualsDequantiseThenQuantise) {
  Random random(5);
  const Tensor w = random_codes(random, {150, 260}, false);
  const Tensor w_scale = random.uniform(DType::f32, {2, 3}, 1e-5, 3e-4);
  Tensor values(DType::bf16, {150, 260});
  for (std::int64_t i = 0; i < w.count(); ++i) {
    const auto s = static_cast<float>(w_scale[i / 260 / 128 * 3 + i % 260 / 128]);
    values.set(i, static_cast<double>(static_cast<float>(w[i]) * s));
  }
  const Tensor q = poisoned(DType::f8e4m3, {150, 260});
  const Tensor scale = poisoned(DType::f32, {2, 3});
  requantize_weight({.w = w, .w_scale = w_scale, .q = q, .scale = scale}, test_context());
  const Tensor expected_q = poisoned(DType::f8e4m3, {150, 260});
  const Tensor expected_scale = poisoned(DType::f32, {2, 3});
  quantize_weight({.w = values, .q = expected_q, .scale = expected_scale, .scale_format = ScaleFormat::ue8m0},
                  test_context());
  expect_same_bytes(q, expected_q);
  expect_same_bytes(scale, expected_scale);
  for (std::int64_t i = 0; i < 6; ++i) EXPECT_EQ(std::exp2(std::ilogb(scale[i])), scale[i]);
}

// A weight that already has power-of-two scales and uses its range keeps its bytes.
TEST(RequantizeWeight, IsIdempotent) {
  Random random(6);
  const Tensor w = random.normal(DType::bf16, {256, 128}, 0.02);
  const Tensor q = poisoned(DType::f8e4m3, {256, 128});
  const Tensor scale = poisoned(DType::f32, {2, 1});
  quantize_weight({.w = w, .q = q, .scale = scale, .scale_format = ScaleFormat::ue8m0}, test_context());
  const Tensor again = poisoned(DType::f8e4m3, {256, 128});
  const Tensor again_scale = poisoned(DType::f32, {2, 1});
  requantize_weight({.w = q, .w_scale = scale, .q = again, .scale = again_scale}, test_context());
  expect_same_bytes(again, q);
  expect_same_bytes(again_scale, scale);
}

TEST(RequantizeWeight, EveryImplementationGivesTheSameBytesAlsoInPlace) {
  Random random(9);
  for (int round = 0; round < 60; ++round) {
    const std::int64_t experts = random.integer(1, 3);
    const std::int64_t n = random.integer(1, 300);
    const std::int64_t k = random.integer(1, 300);
    const Tensor w = random_codes(random, {experts, n, k}, round % 2 == 0);
    Tensor w_scale = random.normal(DType::f32, {experts, scale_groups(n), scale_groups(k)},
                                   std::exp2(static_cast<double>(random.integer(-140, 120))));
    constexpr double kSpecials[] = {0, std::numeric_limits<double>::infinity(),
                                    std::numeric_limits<double>::quiet_NaN(), 1e-45};
    if (round % 3 == 0) w_scale.set(0, kSpecials[random.integer(0, 3)]);
    const Tensor expected = poisoned(DType::f8e4m3, {experts, n, k});
    const Tensor expected_scale = poisoned(DType::f32, {experts, scale_groups(n), scale_groups(k)});
    requantize_weight({.w = w, .w_scale = w_scale, .q = expected, .scale = expected_scale},
                      forced_context("ref:any"));
    requantize_weight({.w = w, .w_scale = w_scale, .q = w, .scale = w_scale}, test_context());
    expect_same_bytes(w, expected);
    expect_same_bytes(w_scale, expected_scale);
    for (std::int64_t i = 0; i < w_scale.count(); ++i) {
      EXPECT_GE(w_scale[i], 0x1p-22);  // 1e-4/448 rounded up
      EXPECT_EQ(std::exp2(std::ilogb(w_scale[i])), w_scale[i]);
    }
    if (HasFailure()) return;
  }
}

TEST(RequantizeWeight, RejectsBadArguments) {
  const Tensor w = poisoned(DType::f8e4m3, {2, 128, 130});
  const Tensor scale = poisoned(DType::f32, {2, 1, 2});
  EXPECT_ERROR(InvalidArgument, "requantize_weight: 'w_scale' must have shape [2,1,2], got [2,2,2]",
               requantize_weight({.w = w, .w_scale = poisoned(DType::f32, {2, 2, 2}), .q = w, .scale = scale},
                                 test_context()));
  EXPECT_ERROR(
      InvalidArgument, "requantize_weight: 'w' must be f8e4m3, got bf16",
      requantize_weight({.w = poisoned(DType::bf16, {128, 130}), .w_scale = scale, .q = w, .scale = scale},
                        test_context()));
}

}  // namespace
}  // namespace fathom
