#include "fathom/ops/quantize_groups.hpp"

#include <cmath>
#include <cstring>
#include <limits>

#include "ops/op_test.hpp"
#include "ops/quantize_groups/quantize_groups_impl.hpp"

namespace fathom {
namespace {

constexpr QuantRule kRules[] = {QuantRule::per_token_group, QuantRule::silu_mul, QuantRule::indexer,
                                QuantRule::per_token_cast, QuantRule::kv_cache};
constexpr ScaleFormat kFormats[] = {ScaleFormat::f32, ScaleFormat::ue8m0};
constexpr ScaleLayout kLayouts[] = {ScaleLayout::row_major, ScaleLayout::column_major,
                                    ScaleLayout::aligned_column_major, ScaleLayout::packed_ue8m0};
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Quantized {
  Tensor q;
  Tensor scale;
};

// Row-major scales.
Quantized quantize(const TensorView& x, QuantRule rule, ScaleFormat format,
                   const Context& context = test_context()) {
  Quantized out{poisoned(DType::f8e4m3, {x.size(0), x.size(1)}),
                poisoned(DType::f32, {x.size(0), scale_groups(x.size(1))})};
  quantize_groups({.x = x, .q = out.q, .scale = out.scale, .rule = rule, .scale_format = format}, context);
  return out;
}

TensorView columns(const Tensor& storage, std::int64_t count) {
  TensorView view = storage;
  view.shape[1] = count;
  return view;
}

TEST(QuantizeGroups, HandComputed) {
  const Tensor x = tensor_of<float>(DType::f32, {1, 5}, {448, -224, 1.0f, 0.0f, -0.0f});
  for (const QuantRule rule : kRules) {
    const Quantized got = quantize(x, rule, ScaleFormat::f32);
    EXPECT_EQ(got.scale[0], 1.0) << to_string(rule);
    const std::vector<int> expected{0x7e, 0xf6, 0x38, 0x00, 0x80};
    const auto* q = got.q.as<std::uint8_t>();
    EXPECT_EQ(std::vector<int>(q, q + 5), expected);
  }
}

// The formulas of the epsilon table, written out once more.
TEST(QuantizeGroups, EveryRuleHasItsFloorAndFormula) {
  Random random(1);
  for (const float size : {1e-12f, 3e-5f, 0.3f, 1e4f}) {
    const Tensor x = random.normal(DType::f32, {1, 128}, size);
    float amax = 0;
    for (std::int64_t i = 0; i < 128; ++i) amax = std::max(amax, std::abs(x.as<float>()[i]));
    for (const QuantRule rule : kRules) {
      SCOPED_TRACE(std::string(to_string(rule)) + " " + std::to_string(size));
      const float floor = rule == QuantRule::kv_cache                                       ? 0
                          : rule == QuantRule::indexer || rule == QuantRule::per_token_cast ? 1e-4f
                                                                                            : 1e-10f;
      const float a = std::max(amax, floor);
      const float s = a / 448;
      const Quantized got = quantize(x, rule, ScaleFormat::f32);
      EXPECT_EQ(got.scale.as<float>()[0], s);
      for (std::int64_t i = 0; i < 128; ++i) {
        const float v = x.as<float>()[i];
        const float scaled = rule == QuantRule::indexer                                   ? v / s
                             : rule == QuantRule::silu_mul || rule == QuantRule::kv_cache ? v * (1 / s)
                                                                                          : v * (448 / a);
        ASSERT_EQ(got.q.as<std::uint8_t>()[i], float_to_f8e4m3(scaled)) << v;
      }
    }
  }
}

// Every bf16 value and every tie between two codes with its neighbours, at scale 1, against a search for the
// nearest code.
TEST(QuantizeGroups, RoundsToTheNearestEvenCode) {
  std::vector<float> values;
  for (std::uint16_t bits = 0; bits <= 0x43e0; ++bits) values.push_back(bf16_to_float(bits));
  for (std::uint8_t code = 0; code < 0x7e; ++code) {
    const auto next = static_cast<std::uint8_t>(code + 1);
    const float tie = (f8e4m3_to_float(code) + f8e4m3_to_float(next)) / 2;
    values.insert(values.end(), {tie, std::nextafter(tie, 0.0f), std::nextafter(tie, 500.0f)});
  }
  while (values.size() % 127 != 0) values.push_back(0);
  const auto groups = static_cast<std::int64_t>(values.size() / 127);
  Tensor x(DType::f32, {2, groups * 128});  // row 1 is negated; element 0 of every group fixes the scale
  for (std::int64_t i = 0; i < groups * 128; ++i) {
    const float value = i % 128 == 0 ? 448 : values[static_cast<std::size_t>(i / 128 * 127 + i % 128 - 1)];
    x.set(i, value);
    x.set(groups * 128 + i, -value);
  }
  for (const QuantRule rule : kRules) {
    const Quantized got = quantize(x, rule, ScaleFormat::f32);
    for (std::int64_t i = 0; i < x.count(); ++i) {
      const int code = got.q.as<std::uint8_t>()[i];
      ASSERT_EQ(code >> 7, i < groups * 128 ? 0 : 1);
      const double magnitude = std::abs(x[i]);
      const double error = std::abs(std::abs(got.q[i]) - magnitude);
      for (const int other : {(code & 0x7f) - 1, (code & 0x7f) + 1}) {
        if (other < 0 || other > 0x7e) continue;
        const double distance = std::abs(f8e4m3_to_float(static_cast<std::uint8_t>(other)) - magnitude);
        ASSERT_TRUE(error < distance || (error == distance && code % 2 == 0)) << x[i] << " gave " << code;
      }
    }
  }
}

// |x - q s| <= s * max(2^-10, |q|/16): half a step of the code, at most 16 s.
TEST(QuantizeGroups, ErrorIsWithinHalfAStep) {
  for (const QuantRule rule : kRules) {
    for (const ScaleFormat format : kFormats) {
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

TEST(QuantizeGroups, ZerosAndDenormalsGiveNoNan) {
  for (const float value : {0.0f, 0x1p-149f, 1e-40f, 0x1p-127f, 0x1p-119f, 1e-30f}) {
    const Tensor x = tensor_of<float>(DType::f32, {1, 3}, {value, -value, 0});
    for (const QuantRule rule : kRules) {
      for (const ScaleFormat format : kFormats) {
        SCOPED_TRACE(std::string(to_string(rule)) + " " + std::string(to_string(format)));
        const Quantized got = quantize(x, rule, format);
        const double s = got.scale[0];
        EXPECT_TRUE(std::isfinite(s)) << value;
        // Without a floor the step is 2^-9 s; a group too small for f32 arithmetic becomes zero.
        const double step = rule == QuantRule::kv_cache ? std::max(s / 16 * 448, 1.4e-36) : s * 0x1p-10;
        for (std::int64_t i = 0; i < 3; ++i) EXPECT_LE(std::abs(got.q[i] * s - x[i]), step) << value;
      }
    }
  }
  const Tensor zeros = tensor_of<float>(DType::f32, {1, 2}, {0, 0});
  EXPECT_EQ(quantize(zeros, QuantRule::per_token_group, ScaleFormat::f32).scale.as<float>()[0], 1e-10f / 448);
  EXPECT_EQ(quantize(zeros, QuantRule::indexer, ScaleFormat::f32).scale.as<float>()[0], 1e-4f / 448);
  EXPECT_EQ(quantize(zeros, QuantRule::kv_cache, ScaleFormat::f32).scale[0], 0);
  EXPECT_EQ(quantize(zeros, QuantRule::silu_mul, ScaleFormat::ue8m0).scale[0], std::ldexp(1.0, 85 - 127));
  EXPECT_EQ(quantize(zeros, QuantRule::per_token_cast, ScaleFormat::ue8m0).scale[0],
            std::ldexp(1.0, 105 - 127));
  EXPECT_EQ(quantize(zeros, QuantRule::kv_cache, ScaleFormat::ue8m0).scale[0], 0x1p-126);
}

TEST(QuantizeGroups, Ue8m0ScaleIsTheNextPowerOfTwo) {
  for (const QuantRule rule : kRules) {
    for (int e = -12; e <= 100; ++e) {
      const float exact = std::ldexp(448.0f, e);
      for (const float amax : {exact, std::nextafter(exact, kInfinity), std::ldexp(1.0f, e)}) {
        const Tensor x = tensor_of<float>(DType::f32, {1, 2}, {-amax, amax / 3});
        const Quantized got = quantize(x, rule, ScaleFormat::ue8m0);
        const double s = got.scale[0];
        EXPECT_EQ(s, std::exp2(std::ceil(std::log2(static_cast<double>(amax / 448)))));
        EXPECT_NEAR(got.q[0] * s, -amax, amax / 16);
        EXPECT_TRUE(amax != exact || got.q[0] == -448);
      }
    }
  }
}

TEST(QuantizeGroups, NanStaysAloneAndInfinityTakesTheGroup) {
  const Tensor x = tensor_of<float>(DType::f32, {2, 130}, [] {
    std::vector<float> values(260, 1.0f);
    values[3] = kNan;    // row 0, group 0
    values[129] = kNan;  // row 0, group 1: nothing else is large there
    values[128] = 0;
    values[130] = kInfinity;  // row 1, group 0
    values[131] = -kInfinity;
    return values;
  }());
  for (const QuantRule rule : kRules) {
    SCOPED_TRACE(to_string(rule));
    const Quantized f32 = quantize(x, rule, ScaleFormat::f32);
    const auto* q = f32.q.as<std::uint8_t>();
    EXPECT_EQ(f32.scale.as<float>()[0], 1.0f / 448);
    EXPECT_EQ(q[0], 0x7e);
    EXPECT_EQ(q[3], 0x7f);
    EXPECT_LT(f32.scale[1], 1e-6);
    EXPECT_EQ(q[128], 0x00);
    EXPECT_EQ(q[129], 0x7f);
    EXPECT_EQ(f32.scale[2], kInfinity);
    EXPECT_EQ(q[130], 0x7f);
    EXPECT_EQ(q[132], 0x00);
    const Quantized ue8m0 = quantize(x, rule, ScaleFormat::ue8m0);
    EXPECT_EQ(ue8m0.scale[2], 0x1p127);
    EXPECT_EQ(ue8m0.q.as<std::uint8_t>()[130], 0x7e);
    EXPECT_EQ(ue8m0.q.as<std::uint8_t>()[131], 0xfe);
    EXPECT_EQ(ue8m0.q.as<std::uint8_t>()[132], 0x00);
  }
}

// Any shape, stride, layout and content: the bytes of the reference, and no byte outside of the views.
TEST(QuantizeGroups, EveryImplementationGivesTheSameBytes) {
  Random random(2024);
  for (int round = 0; round < 400; ++round) {
    const std::int64_t padding = random.integer(0, 1) * random.integer(1, 70);
    const ScaleLayout layout = kLayouts[random.integer(0, 3)];
    const QuantizeGroupsProblem problem{
        .tokens = random.integer(0, 9),
        .k = random.integer(0, 3) ? random.integer(1, 700) : 128 * random.integer(1, 9),
        .x = random.integer(0, 1) ? DType::f32 : DType::bf16,
        .rule = kRules[random.integer(0, 4)],
        .scale_format =
            layout == ScaleLayout::packed_ue8m0 ? ScaleFormat::ue8m0 : kFormats[random.integer(0, 1)],
        .scale_layout = layout};
    SCOPED_TRACE(problem_string(problem));
    const std::int64_t groups = scale_groups(problem.k);
    const double size = std::exp2(static_cast<double>(random.integer(-145, 120)));
    Tensor x = random.normal(problem.x, {problem.tokens, problem.k + padding}, size);
    const float specials[] = {kNan, kInfinity, -kInfinity, 0.0f, -0.0f, 448.0f, 3e38f};
    for (std::int64_t n = random.integer(0, 3); n > 0 && x.count() > 0; --n) {
      x.set(random.integer(0, x.count() - 1), specials[random.integer(0, 6)]);
    }
    struct Output {
      Tensor q;
      Tensor scale;
    };
    const auto run = [&](const auto& function) {
      const std::int64_t words = scale_bytes(layout, problem.tokens, groups) / 4;
      Output out{poisoned(DType::f8e4m3, {problem.tokens, problem.k + padding}),
                 poisoned(DType::i32, {words})};
      function({.x = columns(x, problem.k),
                .q = columns(out.q, problem.k),
                .scale = scale_view(out.scale.view().data, layout, problem.tokens, groups),
                .rule = problem.rule,
                .scale_format = problem.scale_format,
                .scale_layout = layout});
      return out;
    };
    const Output got = run([](const QuantizeGroupsArgs& args) { quantize_groups(args, test_context()); });
    const Output expected =
        run([&](const QuantizeGroupsArgs& args) { quantize_groups_ref(problem, args, test_context()); });
    expect_same_bytes(got.q, expected.q);
    expect_same_bytes(got.scale, expected.scale);
    if (HasFailure()) return;
  }
}

TEST(QuantizeGroups, LayoutsHoldTheSameScales) {
  Random random(5);
  for (const std::int64_t tokens : {1, 3, 4, 5}) {
    for (const std::int64_t groups : {1, 2, 4, 5}) {
      const Tensor x = random.normal(DType::f32, {tokens, groups * 128});
      const Quantized plain = quantize(x, QuantRule::per_token_group, ScaleFormat::ue8m0);
      for (const ScaleLayout layout : kLayouts) {
        SCOPED_TRACE(to_string(layout));
        const Tensor q = poisoned(DType::f8e4m3, {tokens, groups * 128});
        const Tensor storage = poisoned(DType::i32, {scale_bytes(layout, tokens, groups) / 4});
        quantize_groups({.x = x,
                         .q = q,
                         .scale = scale_view(storage.view().data, layout, tokens, groups),
                         .scale_format = ScaleFormat::ue8m0,
                         .scale_layout = layout},
                        test_context());
        expect_same_bytes(q, plain.q);
        const std::int64_t column = layout == ScaleLayout::column_major ? tokens : (tokens + 3) / 4 * 4;
        for (std::int64_t t = 0; t < tokens; ++t) {
          for (std::int64_t g = 0; g < (groups + 3) / 4 * 4; ++g) {
            const double s = g < groups ? plain.scale[t * groups + g] : 0;
            if (layout == ScaleLayout::packed_ue8m0) {
              const int byte = storage.as<std::uint8_t>()[g / 4 * 4 * column + 4 * t + g % 4];
              EXPECT_EQ(byte, g < groups ? std::ilogb(s) + 127 : 0);
            } else if (g < groups) {
              EXPECT_EQ(
                  storage.as<float>()[layout == ScaleLayout::row_major ? t * groups + g : g * column + t], s);
            }
          }
        }
        if (layout == ScaleLayout::packed_ue8m0 && tokens % 4 != 0) {
          EXPECT_EQ(storage.as<std::int32_t>()[tokens], 0x7b7b7b7b);  // padding rows keep their bytes
        }
      }
    }
  }
}

TEST(QuantizeGroups, RowsDoNotDependOnOneAnother) {
  Random random(7);
  const Tensor x = random.normal(DType::f32, {200, 700});
  const Quantized together = quantize(x, QuantRule::indexer, ScaleFormat::f32, test_context(2));
  const Quantized one_thread = quantize(x, QuantRule::indexer, ScaleFormat::f32, test_context(1));
  expect_same_bytes(together.q, one_thread.q);
  expect_same_bytes(together.scale, one_thread.scale);
  for (std::int64_t t = 0; t < 200; ++t) {
    const Quantized alone = quantize(x.view().rows(t, t + 1), QuantRule::indexer, ScaleFormat::f32);
    expect_same_bytes(alone.q, together.q.view().rows(t, t + 1));
    expect_same_bytes(alone.scale, together.scale.view().rows(t, t + 1));
  }
}

TEST(QuantizeGroups, RejectsBadArguments) {
  const Tensor x = poisoned(DType::f32, {4, 256});
  const Tensor q = poisoned(DType::f8e4m3, {4, 256});
  const Tensor scale = poisoned(DType::f32, {4, 2});
  const auto expect_error = [&](const std::string& text, const QuantizeGroupsArgs& args) {
    EXPECT_ERROR(InvalidArgument, "quantize_groups: " + text, quantize_groups(args, test_context()));
  };
  expect_error("'scale' must have shape [4,2], got [4,3]",
               {.x = x, .q = q, .scale = poisoned(DType::f32, {4, 3})});
  expect_error("'x' must be f32 or bf16, got i32",
               {.x = poisoned(DType::i32, {4, 256}), .q = q, .scale = scale});
  expect_error("'q' must have shape [4,256], got [4,255]",
               {.x = x, .q = poisoned(DType::f8e4m3, {4, 255}), .scale = scale});
  expect_error("'k' must be at least 1, got 0",
               {.x = poisoned(DType::f32, {4, 0}), .q = poisoned(DType::f8e4m3, {4, 0}), .scale = scale});
  expect_error("'scale_format' must be ue8m0 for packed_ue8m0 scales, got f32",
               {.x = x, .q = q, .scale = scale, .scale_layout = ScaleLayout::packed_ue8m0});
  expect_error("'scale' must have row stride 1 (column_major), got 2",
               {.x = x, .q = q, .scale = scale, .scale_layout = ScaleLayout::column_major});
  TensorView narrow = scale_view(scale.view().data, ScaleLayout::aligned_column_major, 4, 2);
  narrow.stride[1] = 3;
  expect_error("'scale' must have a column stride of at least 4 that is a multiple of 4, got 3",
               {.x = x, .q = q, .scale = narrow, .scale_layout = ScaleLayout::aligned_column_major});
}

}  // namespace
}  // namespace fathom
