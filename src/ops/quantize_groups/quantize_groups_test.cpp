#include "fathom/ops/quantize_groups.hpp"

#include <cmath>
#include <cstring>

#include "ops/op_test.hpp"
#include "ops/quantize_groups/quantize_groups_impl.hpp"

namespace fathom {
namespace {

constexpr QuantRule kRules[] = {QuantRule::per_token_group, QuantRule::silu_mul, QuantRule::indexer,
                                QuantRule::per_token_cast, QuantRule::kv_cache};

struct Quantized {
  Tensor q;
  Tensor scale;
};

// Quantises rows of f32 values, row-major scales.
Quantized quantize(const TensorView& x, QuantRule rule, ScaleFormat format,
                   const Context& context = test_context()) {
  Quantized out{poisoned(DType::f8e4m3, {x.size(0), x.size(1)}),
                poisoned(DType::f32, {x.size(0), scale_groups(x.size(1))})};
  quantize_groups({.x = x, .q = out.q, .scale = out.scale, .rule = rule, .scale_format = format}, context);
  return out;
}

TEST(QuantizeGroups, HandComputed) {
  Tensor x = tensor_of<float>(DType::f32, {1, 5}, {448, -224, 1.0f, 0.0f, -0.0f});
  for (const QuantRule rule : kRules) {
    const Quantized got = quantize(x, rule, ScaleFormat::f32);
    EXPECT_EQ(got.scale[0], 1.0) << to_string(rule);
    const auto* q = got.q.as<std::uint8_t>();
    EXPECT_EQ(q[0], 0x7e);  // 448
    EXPECT_EQ(q[1], 0xf6);  // -224
    EXPECT_EQ(q[2], 0x38);  // 1
    EXPECT_EQ(q[3], 0x00);
    EXPECT_EQ(q[4], 0x80);
  }
}

// Every element is within half a step of its code: |x - q s| <= s * max(2^-10, |q|/16), at most 16 s.
TEST(QuantizeGroups, ErrorIsWithinHalfAStep) {
  for (const QuantRule rule : kRules) {
    for (const ScaleFormat format : {ScaleFormat::f32, ScaleFormat::ue8m0}) {
      SCOPED_TRACE(std::string(to_string(rule)) + " " + std::string(to_string(format)));
      Random random(11);
      const Tensor x = random.normal(DType::f32, {9, 300}, 3);
      const Quantized got = quantize(x, rule, format);
      Tensor back(DType::f32, {9, 300});
      Tensor bound(DType::f32, {9, 300});
      for (std::int64_t i = 0; i < x.count(); ++i) {
        const double s = got.scale[i / 300 * 3 + i % 300 / 128];
        back.set(i, got.q[i] * s);
        bound.set(i, s * std::max(0x1p-10, std::abs(got.q[i]) / 16) * (1 + 1e-6));
      }
      expect_within(back, x, bound);
    }
  }
}

TEST(QuantizeGroups, RejectsBadArguments) {
  const Tensor x = poisoned(DType::f32, {4, 256});
  const Tensor q = poisoned(DType::f8e4m3, {4, 256});
  const Tensor scale = poisoned(DType::f32, {4, 3});
  EXPECT_ERROR(InvalidArgument, "quantize_groups: 'scale' must have shape [4,2], got [4,3]",
               quantize_groups({.x = x, .q = q, .scale = scale}, test_context()));
}

}  // namespace
}  // namespace fathom
