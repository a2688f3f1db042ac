#include "fathom/ops/mla_cache_store.hpp"

#include <cmath>
#include <cstring>

#include "ops/elements.hpp"
#include "ops/mla_cache_store/mla_cache_store_impl.hpp"
#include "ops/op_test.hpp"

namespace fathom {
namespace {

float f32_at(const std::uint8_t* bytes) {
  float value;
  std::memcpy(&value, bytes, sizeof value);
  return value;
}

TEST(MlaCacheStore, BytesOfAnEntry) {
  ASSERT_EQ(mla_cache_entry_bytes(512, 64), 656);
  Random random(1);
  const Tensor latent = random.normal(DType::f32, {1, 512}, 3);
  const Tensor rope = random.normal(DType::f32, {1, 64});
  for (std::int64_t i = 128; i < 256; ++i) latent.as<float>()[i] = 0;  // a zero tile
  latent.as<float>()[300] = 1000;
  const Tensor slots = tensor_of<int>(DType::i32, {1}, {2});
  const Tensor cache = poisoned(DType::u8, {4, 656});
  mla_cache_store({.latent = latent, .rope = rope, .slots = slots, .cache = cache}, test_context());
  const auto* entry = cache.as<std::uint8_t>() + 2 * 656;
  for (std::int64_t group = 0; group < 4; ++group) {
    float amax = 0;
    for (std::int64_t i = 0; i < 128; ++i)
      amax = std::max(amax, std::abs(latent.as<float>()[group * 128 + i]));
    const float scale = f32_at(entry + 512 + 4 * group);
    EXPECT_EQ(scale, amax / 448.0f);
    for (std::int64_t i = group * 128; i < group * 128 + 128; ++i) {
      const float expected = group == 1 ? 0 : latent.as<float>()[i] * (1.0f / scale);
      EXPECT_EQ(entry[i], float_to_f8e4m3(expected)) << i;
    }
  }
  EXPECT_EQ(entry[300], 0x7e);  // 448
  for (std::int64_t i = 0; i < 64; ++i) {
    std::uint16_t bits = 0;
    std::memcpy(&bits, entry + 528 + 2 * i, sizeof bits);
    EXPECT_EQ(bits, float_to_bf16(rope.as<float>()[i]));
  }
  for (std::int64_t i = 0; i < 656; ++i) {  // the other slots are untouched
    EXPECT_EQ(cache.as<std::uint8_t>()[i], 0x7b);
    EXPECT_EQ(cache.as<std::uint8_t>()[656 * 3 + i], 0x7b);
  }
}

// Every implementation writes the reference's bytes, for all dtypes, strided rows and skipped tokens.
TEST(MlaCacheStore, SameBytesAsReference) {
  for (const DType cache_type : {DType::u8, DType::bf16, DType::f32}) {
    for (const DType x : {DType::f32, DType::bf16}) {
      for (const auto [tokens, lora, rope_dim] :
           {std::array{1, 512, 64}, std::array{37, 128, 3}, std::array{5, 256, 0}, std::array{0, 128, 64}}) {
        SCOPED_TRACE(std::string(to_string(cache_type)) + " " + std::to_string(tokens));
        Random random(tokens + lora);
        const Tensor both = random.normal(x, {tokens, lora + rope_dim}, 20);
        TensorView latent = both, rope = both;
        latent.shape[1] = lora;
        rope.shape[1] = rope_dim;
        rope.data = both.as<std::uint8_t>() + lora * size_of(x);
        if (tokens > 2) {  // tiny, huge and zero groups
          for (std::int64_t i = 0; i < 128; ++i) {
            both.view();
            const_cast<Tensor&>(both).set((lora + rope_dim) + i, 1e-38);
            const_cast<Tensor&>(both).set(2 * (lora + rope_dim) + i, i == 5 ? 3e38 : 0);
          }
        }
        Tensor slots(DType::i64, {tokens});
        for (std::int64_t t = 0; t < tokens; ++t)
          slots.set(t, t % 5 == 3 ? -1 : static_cast<double>((t * 7) % 41));
        const std::int64_t width =
            cache_type == DType::u8 ? mla_cache_entry_bytes(lora, rope_dim) : lora + rope_dim;
        const Tensor got = poisoned(cache_type, {41, width + 3});
        const Tensor expected = poisoned(cache_type, {41, width + 3});
        TensorView got_view = got, expected_view = expected;
        got_view.shape[1] = expected_view.shape[1] = width;
        mla_cache_store({.latent = latent, .rope = rope, .slots = slots, .cache = got_view}, test_context());
        const MlaCacheStoreProblem problem{.tokens = tokens,
                                           .lora = lora,
                                           .rope_dim = rope_dim,
                                           .latent = x,
                                           .rope = x,
                                           .slots = DType::i64,
                                           .cache = cache_type};
        mla_cache_store_ref(problem, {.latent = latent, .rope = rope, .slots = slots, .cache = expected_view},
                            test_context());
        expect_same_bytes(got, expected);
      }
    }
  }
}

TEST(MlaCacheStore, RejectsBadArguments) {
  const Tensor latent = poisoned(DType::f32, {2, 128});
  const Tensor rope = poisoned(DType::f32, {2, 8});
  const Tensor cache = poisoned(DType::u8, {4, 148});
  const auto store = [&](const TensorView& slots, const TensorView& to) {
    mla_cache_store({.latent = latent, .rope = rope, .slots = slots, .cache = to}, test_context());
  };
  EXPECT_ERROR(InvalidArgument, "mla_cache_store: 'slots' must be from -1 to 3, got 4 at [1]",
               store(tensor_of<int>(DType::i32, {2}, {0, 4}), cache));
  EXPECT_ERROR(InvalidArgument, "mla_cache_store: 'slots' must be from -1 to 3, got -2 at [0]",
               store(tensor_of<int>(DType::i64, {2}, {-2, 1}), cache));
  EXPECT_EQ(cache.as<std::uint8_t>()[0], 0x7b);
  const Tensor slots = tensor_of<int>(DType::i32, {2}, {0, 1});
  EXPECT_ERROR(InvalidArgument, "'cache' must have shape [*,148], got [4,136]",
               store(slots, poisoned(DType::u8, {4, 136})));
  EXPECT_ERROR(InvalidArgument, "'cache' must be f32 or bf16 or u8, got f8e4m3",
               store(slots, poisoned(DType::f8e4m3, {4, 148})));
  const Tensor narrow = poisoned(DType::f32, {2, 64});
  EXPECT_ERROR(
      InvalidArgument, "'latent' must have a multiple of 128 columns with a u8 cache, got 64",
      mla_cache_store({.latent = narrow, .rope = rope, .slots = slots, .cache = cache}, test_context()));
}

}  // namespace
}  // namespace fathom
