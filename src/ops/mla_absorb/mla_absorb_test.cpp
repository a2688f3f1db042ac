#include "fathom/ops/mla_absorb.hpp"

#include "ops/op_test.hpp"

namespace fathom {
namespace {

// The definition, spelled out with other loops: heads of 72 rows straddle the 128-row blocks of the scale.
TEST(MlaAbsorb, SplitsTransposesAndScales) {
  constexpr std::int64_t kHeads = 5, kNope = 40, kValue = 32, kLora = 192, kRows = kHeads * (kNope + kValue);
  for (const DType stored : {DType::f8e4m3, DType::bf16, DType::f32}) {
    for (const DType out : {DType::f32, DType::bf16}) {
      SCOPED_TRACE(std::string(to_string(stored)) + " to " + std::string(to_string(out)));
      Random random(3);
      const Tensor kv_b = random.normal(stored, {kRows, kLora});
      const Tensor scale = random.uniform(DType::f32, {3, 2}, 0.5, 2);
      const Tensor w_uk = poisoned(out, {kHeads, kLora, kNope});
      const Tensor w_uv = poisoned(out, {kHeads, kValue, kLora});
      MlaAbsorbArgs args{.kv_b = kv_b, .w_uk = w_uk, .w_uv = w_uv};
      if (stored == DType::f8e4m3) args.kv_b_scale = scale;
      mla_absorb(args, test_context());
      Tensor expected_uk(out, {kHeads, kLora, kNope}), expected_uv(out, {kHeads, kValue, kLora});
      std::int64_t row = 0;
      for (std::int64_t h = 0; h < kHeads; ++h) {
        for (std::int64_t i = 0; i < kNope + kValue; ++i, ++row) {
          for (std::int64_t l = 0; l < kLora; ++l) {
            float w = static_cast<float>(kv_b[row * kLora + l]);
            if (stored == DType::f8e4m3) w *= static_cast<float>(scale[row / 128 * 2 + l / 128]);
            if (i < kNope) expected_uk.set((h * kLora + l) * kNope + i, static_cast<double>(w));
            if (i >= kNope) expected_uv.set((h * kValue + i - kNope) * kLora + l, static_cast<double>(w));
          }
        }
      }
      expect_same_bytes(w_uk, expected_uk);
      expect_same_bytes(w_uv, expected_uv);
    }
  }
}

// Code times scale is the same number before and after.
TEST(MlaAbsorb, TransposesCodesWithoutRounding) {
  constexpr std::int64_t kHeads = 3, kNope = 256, kValue = 128, kLora = 200,
                         kRows = kHeads * (kNope + kValue);
  Random random(5);
  const Tensor kv_b = random.normal(DType::f8e4m3, {kRows, kLora});
  const Tensor scale = random.uniform(DType::f32, {kRows / 128, 2}, 0.5, 2);
  const Tensor w_uk = poisoned(DType::f8e4m3, {kHeads, kLora, kNope});
  const Tensor w_uk_scale = poisoned(DType::f32, {kHeads, 2, 2});
  mla_absorb({.kv_b = kv_b, .kv_b_scale = scale, .w_uk = w_uk, .w_uk_scale = w_uk_scale}, test_context());
  for (std::int64_t h = 0; h < kHeads; ++h) {
    for (std::int64_t l = 0; l < kLora; ++l) {
      for (std::int64_t i = 0; i < kNope; ++i) {
        const std::int64_t row = h * (kNope + kValue) + i;
        ASSERT_EQ(w_uk[(h * kLora + l) * kNope + i] * w_uk_scale[(h * 2 + l / 128) * 2 + i / 128],
                  kv_b[row * kLora + l] * scale[row / 128 * 2 + l / 128]);
      }
    }
  }
  EXPECT_ERROR(InvalidArgument, "multiples of 128 rows per head for keys and values, got 120 and 264",
               mla_absorb({.kv_b = kv_b,
                           .kv_b_scale = scale,
                           .w_uk = poisoned(DType::f8e4m3, {kHeads, kLora, 120}),
                           .w_uk_scale = w_uk_scale},
                          test_context()));
}

TEST(MlaAbsorb, RejectsBadArguments) {
  const Tensor w_uk = poisoned(DType::bf16, {2, 64, 8});
  const Tensor w_uv = poisoned(DType::bf16, {2, 4, 64});
  const Tensor wide = poisoned(DType::f32, {2, 4, 64});
  const Tensor kv_b = poisoned(DType::f8e4m3, {24, 64});
  const Tensor scale = poisoned(DType::f32, {1, 1});
  EXPECT_ERROR(
      InvalidArgument, "mla_absorb: 'kv_b' must have shape [24,64], got [25,64]",
      mla_absorb({.kv_b = poisoned(DType::bf16, {25, 64}), .w_uk = w_uk, .w_uv = w_uv}, test_context()));
  EXPECT_ERROR(InvalidArgument, "mla_absorb: 'kv_b_scale' must",
               mla_absorb({.kv_b = kv_b, .w_uk = w_uk, .w_uv = w_uv}, test_context()));
  EXPECT_ERROR(
      InvalidArgument, "mla_absorb: 'kv_b_scale' must be given only with f8e4m3, got bf16",
      mla_absorb({.kv_b = poisoned(DType::bf16, {24, 64}), .kv_b_scale = scale, .w_uk = w_uk, .w_uv = w_uv},
                 test_context()));
  EXPECT_ERROR(InvalidArgument, "mla_absorb: 'w_uv' must be bf16, got f32",
               mla_absorb({.kv_b = kv_b, .kv_b_scale = scale, .w_uk = w_uk, .w_uv = wide}, test_context()));
}

}  // namespace
}  // namespace fathom
