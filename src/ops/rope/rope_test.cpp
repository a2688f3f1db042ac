// Tests of rope and of its table.
#include "fathom/ops/rope.hpp"

#include <cmath>
#include <cstring>

#include "ops/op_test.hpp"
#include "ops/rope/rope_impl.hpp"

namespace fathom {
namespace {

TEST(Rope, QuarterTurn) {
  const Tensor table = tensor_of<float>(DType::f32, {2, 4}, {1, 1, 0, 0, 0, 0, 1, 1});  // no turn; 90 degrees
  const Tensor position = tensor_of<int>(DType::i32, {1}, {1});
  Tensor x = tensor_of<float>(DType::f32, {1, 1, 6}, {9, 1, 2, 3, 4, 9});
  rope({.x = x, .positions = position, .cos_sin = table, .offset = 1, .style = RopeStyle::interleaved},
       test_context());
  expect_same_bytes(x, tensor_of<float>(DType::f32, {1, 1, 6}, {9, -2, 1, -4, 3, 9}));
  Tensor y = tensor_of<float>(DType::f32, {1, 1, 6}, {9, 1, 2, 3, 4, 9});
  rope({.x = y, .positions = position, .cos_sin = table, .offset = 1, .style = RopeStyle::half_split},
       test_context());
  expect_same_bytes(y, tensor_of<float>(DType::f32, {1, 1, 6}, {9, -3, -4, 1, 2, 9}));
}

// Positions in no order, some twice.
Tensor scattered(DType dtype, std::int64_t tokens, std::int64_t limit) {
  Tensor positions(dtype, {tokens});
  for (std::int64_t t = 0; t < tokens; ++t) positions.set(t, static_cast<double>((t * 37 + 5) % limit));
  return positions;
}

Tensor copy_of(const Tensor& x, std::int64_t a, std::int64_t b, std::int64_t c) {
  Tensor copy(x.view().dtype, {a, b, c});
  std::memcpy(copy.view().data, x.view().data, static_cast<std::size_t>(x.count() * size_of(x.view().dtype)));
  return copy;
}

TEST(Rope, AgreesWithReference) {
  for (const RopeStyle style : {RopeStyle::interleaved, RopeStyle::half_split}) {
    for (const RopeProblem& problem :
         {RopeProblem{.style = style}, RopeProblem{.tokens = 7, .x = DType::bf16},
          RopeProblem{.tokens = 3, .heads = 2, .dim = 9, .rope_dim = 6, .offset = 3},
          RopeProblem{.tokens = 300, .heads = 3, .dim = 128, .rope_dim = 64, .offset = 0},
          RopeProblem{.tokens = 2, .heads = 1, .dim = 50, .rope_dim = 38, .offset = 7, .x = DType::bf16},
          RopeProblem{.tokens = 0}, RopeProblem{.heads = 1, .dim = 5, .rope_dim = 0, .offset = 5}}) {
      SCOPED_TRACE(problem_string(problem));
      constexpr std::int64_t kPositions = 100;
      Random random(problem.dim);
      const Tensor got = random.normal(problem.x, {problem.tokens, problem.heads, problem.dim});
      const Tensor expected = copy_of(got, problem.tokens, problem.heads, problem.dim);
      const Tensor table = random.uniform(DType::f32, {kPositions, problem.rope_dim}, -1, 1);
      const Tensor positions =
          scattered(problem.tokens % 2 == 1 ? DType::i32 : DType::i64, problem.tokens, kPositions);
      rope({.x = got, .positions = positions, .cos_sin = table, .offset = problem.offset, .style = style},
           test_context());
      RopeProblem reference = problem;
      reference.style = style;
      rope_ref(
          reference,
          {.x = expected, .positions = positions, .cos_sin = table, .offset = problem.offset, .style = style},
          test_context());
      expect_close(got, expected, {.relative = problem.x == DType::bf16 ? 0x1p-7 : 1e-5, .absolute = 1e-6});
    }
  }
}

TEST(Rope, TokensDoNotDependOnOneAnotherNorOnStrides) {
  constexpr std::int64_t kTokens = 40;
  for (const RopeStyle style : {RopeStyle::interleaved, RopeStyle::half_split}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      Random random(3);
      const Tensor together = random.normal(dtype, {kTokens, 40, 64});
      const Tensor apart(dtype, {kTokens, 40, 65});  // heads 65 apart
      TensorView alone = apart.view();
      alone.shape[2] = 64;
      const auto bytes = static_cast<std::size_t>(size_of(dtype));
      for (std::int64_t h = 0; h < kTokens * 40; ++h) {
        std::memcpy(apart.as<std::byte>() + static_cast<std::size_t>(h) * 65 * bytes,
                    together.as<std::byte>() + static_cast<std::size_t>(h) * 64 * bytes, 64 * bytes);
      }
      const Tensor table = random.uniform(DType::f32, {kTokens, 64}, -1, 1);
      const Tensor positions = scattered(DType::i32, kTokens, kTokens);
      rope({.x = together, .positions = positions, .cos_sin = table, .style = style}, test_context(2));
      for (std::int64_t t = 0; t < kTokens; ++t) {
        rope({.x = alone.rows(t, t + 1),
              .positions = positions.view().rows(t, t + 1),
              .cos_sin = table,
              .style = style},
             test_context(1));
      }
      expect_same_bytes(together, alone);
    }
  }
}

TEST(Rope, PlainTable) {
  const Buffer table = make_rope_table({.dim = 4, .theta = 100}, 3);
  const TensorView values = table.view(DType::f32, {3, 4});
  Tensor expected(DType::f32, {3, 4});
  for (int p = 0; p < 3; ++p) {
    for (int i = 0; i < 2; ++i) {
      const double angle = p * std::pow(100.0, -i / 2.0);
      expected.set(p * 4 + i, std::cos(angle));
      expected.set(p * 4 + 2 + i, std::sin(angle));
    }
  }
  expect_close(values, expected, {.relative = 1e-6, .absolute = 1e-7});
}

RopeConfig deepseek_v3() {
  return {.yarn = true,
          .factor = 40,
          .original_max_position_embeddings = 4096,
          .beta_fast = 32,
          .beta_slow = 1,
          .mscale = 1,
          .mscale_all_dim = 1};
}

TEST(Rope, YarnTableOfDeepSeekV3) {
  // Computed from the formulas apart from this library, in f32 steps: pairs up to 10 keep their frequency,
  // pairs from 23 on turn 40 times slower.
  const Buffer table = make_rope_table(deepseek_v3(), 163840);
  const auto* values = reinterpret_cast<const float*>(table.data());
  struct Entry {
    std::int64_t position, pair;
    double cos, sin;
  };
  for (const Entry& e : {Entry{1, 0, 0.5403022766113281, 0.8414709568023682},
                         Entry{100, 12, -0.8988506197929382, 0.4382551908493042},
                         Entry{163839, 0, 0.22868464887142181, -0.9735005497932434},
                         Entry{163839, 16, -0.8665599822998047, 0.4990729093551636},
                         Entry{163839, 31, 0.854500949382782, 0.5194498896598816}}) {
    SCOPED_TRACE(testing::Message() << "position " << e.position << " pair " << e.pair);
    // An angle of 1e4 has 2^-11 between neighbours in f32; one unit of a frequency's last place moves it that
    // much.
    const double tolerance = e.position > 1000 && e.pair > 0 && e.pair < 23 ? 2e-4 : 1e-6;
    EXPECT_NEAR(values[e.position * 64 + e.pair], e.cos, tolerance);
    EXPECT_NEAR(values[e.position * 64 + 32 + e.pair], e.sin, tolerance);
  }
}

TEST(Rope, YarnScales) {
  EXPECT_DOUBLE_EQ(yarn_mscale(1, 7), 1);
  EXPECT_DOUBLE_EQ(yarn_mscale(0.5, 7), 1);
  EXPECT_DOUBLE_EQ(yarn_mscale(40, 1), 1.3688879454113936);
  RopeConfig config = deepseek_v3();
  EXPECT_NEAR(attention_softmax_scale(config, 192), 0.1352337788608801, 1e-15);
  config.mscale_all_dim = 0;
  EXPECT_NEAR(attention_softmax_scale(config, 192), 1 / std::sqrt(192.0), 1e-15);
  EXPECT_NEAR(attention_softmax_scale({.mscale_all_dim = 1}, 192), 1 / std::sqrt(192.0), 1e-15);
  // Position 0 has cosine 1: the first element of the table is its scale.
  const auto scale = [](const RopeConfig& c) {
    const Buffer table = make_rope_table(c, 1);
    return static_cast<double>(*reinterpret_cast<const float*>(table.data()));
  };
  EXPECT_EQ(scale(deepseek_v3()), 1);  // mscale and mscale_all_dim cancel
  EXPECT_NEAR(scale(config), 1.3688879454113936, 1e-7);
  config = deepseek_v3();
  config.mscale = 0.707;
  EXPECT_NEAR(scale(config), 0.9210423553163399, 1e-7);
  config.attention_factor = 0.25;
  EXPECT_EQ(scale(config), 0.25);
}

TEST(Rope, RejectsBadArguments) {
  const Tensor table = poisoned(DType::f32, {16, 4});
  const Tensor x = poisoned(DType::f32, {2, 1, 6});
  const auto at = [&](int first, int second, std::int64_t offset) {
    const Tensor positions = tensor_of<int>(DType::i32, {2}, {first, second});
    rope({.x = x, .positions = positions, .cos_sin = table, .offset = offset}, test_context());
  };
  EXPECT_ERROR(InvalidArgument, "rope: 'positions' must be in [0,16), got 16 at token 1", at(3, 16, 0));
  EXPECT_ERROR(InvalidArgument, "rope: 'positions' must be in [0,16), got -1 at token 0", at(-1, 2, 0));
  EXPECT_ERROR(InvalidArgument, "rope: 'offset' must leave room for 4 of 6 elements, got 3", at(0, 0, 3));
  EXPECT_ERROR(InvalidArgument, "rope: 'offset' must leave room for 4 of 6 elements, got -1", at(0, 0, -1));
  EXPECT_ERROR(InvalidArgument, "rope: 'cos_sin' must have an even number of columns, got [16,3]",
               rope({.x = x,
                     .positions = tensor_of<int>(DType::i32, {2}, {0, 0}),
                     .cos_sin = poisoned(DType::f32, {16, 3})},
                    test_context()));
  EXPECT_ERROR(InvalidArgument, "make_rope_table: 'dim' must be positive and even, got 7",
               make_rope_table({.dim = 7}, 1));
  EXPECT_ERROR(InvalidArgument, "make_rope_table: 'theta' must be positive",
               make_rope_table({.theta = 0}, 1));
  EXPECT_ERROR(InvalidArgument, "make_rope_table: 'factor' must be positive",
               make_rope_table({.yarn = true, .factor = 0}, 1));
}

}  // namespace
}  // namespace fathom
