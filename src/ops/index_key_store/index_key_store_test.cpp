#include "fathom/ops/index_key_store.hpp"

#include <cmath>
#include <cstring>

#include "ops/index_key_store/index_key_store_impl.hpp"
#include "ops/op_test.hpp"

namespace fathom {
namespace {

TEST(IndexKeyStore, ExactBytesOfAPage) {
  ASSERT_EQ(kIndexKeyPageBytes, 8448);
  Random random(2);
  for (const bool ue8m0 : {false, true}) {
    const Tensor k = random.normal(DType::f32, {4, 128}, 5);
    for (std::int64_t i = 0; i < 128; ++i) k.as<float>()[3 * 128 + i] = 0;  // the floor: amax 1e-4
    const Tensor slots = tensor_of<int>(DType::i32, {4}, {64 + 1, 64 + 63, -1, 128});
    const Tensor cache = poisoned(DType::u8, {3, 8448});
    index_key_store({.k = k, .slots = slots, .cache = cache, .ue8m0 = ue8m0}, test_context());
    const auto check = [&](std::int64_t token, std::int64_t key_at, std::int64_t scale_at) {
      float amax = 1e-4f;
      for (std::int64_t i = 0; i < 128; ++i) amax = std::max(amax, std::abs(k.as<float>()[token * 128 + i]));
      float scale = amax / 448.0f;
      if (ue8m0) scale = std::exp2(std::ceil(std::log2(scale)));
      float stored;
      std::memcpy(&stored, cache.as<std::uint8_t>() + scale_at, 4);
      EXPECT_EQ(stored, scale);
      for (std::int64_t i = 0; i < 128; ++i) {
        EXPECT_EQ(cache.as<std::uint8_t>()[key_at + i],
                  float_to_f8e4m3(k.as<float>()[token * 128 + i] / scale));
      }
      std::memset(cache.as<std::uint8_t>() + key_at, 0x7b, 128);
      std::memset(cache.as<std::uint8_t>() + scale_at, 0x7b, 4);
    };
    check(0, 8448 + 128, 8448 + 8196);   // page 1, entry 1
    check(1, 8448 + 8064, 8448 + 8444);  // page 1, entry 63
    check(3, 2 * 8448, 2 * 8448 + 8192);
    for (std::int64_t i = 0; i < cache.count(); ++i) ASSERT_EQ(cache.as<std::uint8_t>()[i], 0x7b) << i;
  }
}

TEST(IndexKeyStore, ScalesThatArePowersOfTwoStay) {
  Tensor k(DType::f32, {2, 128});
  for (std::int64_t i = 0; i < 256; ++i) k.set(i, i < 128 ? 448 * 0.25 : 448 * 0.25 * 1.0001);
  const Tensor cache = poisoned(DType::u8, {1, 8448});
  const Tensor slots = tensor_of<int>(DType::i64, {2}, {0, 1});
  index_key_store({.k = k, .slots = slots, .cache = cache, .ue8m0 = true}, test_context());
  EXPECT_EQ(cache.view().as<float>()[8192 / 4], 0.25f);
  EXPECT_EQ(cache.view().as<float>()[8192 / 4 + 1], 0.5f);
}

// Every implementation writes the reference's bytes.
TEST(IndexKeyStore, SameBytesAsReference) {
  for (const DType cache_type : {DType::u8, DType::f32}) {
    for (const DType x : {DType::f32, DType::bf16}) {
      for (const bool ue8m0 : {false, true}) {
        if (ue8m0 && cache_type == DType::f32) continue;
        for (const std::int64_t tokens : {0, 1, 100}) {
          Random random(tokens);
          Tensor k(x, {tokens, 128});
          for (std::int64_t i = 0; i < k.count(); ++i) {
            const double magnitude = std::exp2(static_cast<double>(i / 128 % 60) - 30);
            k.set(i, magnitude * random.uniform(DType::f32, {1}, -1, 1)[0]);
          }
          Tensor slots(DType::i64, {tokens});
          for (std::int64_t t = 0; t < tokens; ++t)
            slots.set(t, t % 9 == 4 ? -1 : static_cast<double>(t * 37 % 192));
          const bool quantised = cache_type == DType::u8;
          const auto make = [&] {
            return quantised ? poisoned(cache_type, {3, 8448}) : poisoned(cache_type, {3, 64, 128});
          };
          const Tensor got = make();
          const Tensor expected = make();
          index_key_store({.k = k, .slots = slots, .cache = got, .ue8m0 = ue8m0}, test_context());
          index_key_store_ref(
              {.tokens = tokens, .k = x, .slots = DType::i64, .cache = cache_type, .ue8m0 = ue8m0},
              {.k = k, .slots = slots, .cache = expected, .ue8m0 = ue8m0}, test_context());
          expect_same_bytes(got, expected);
        }
      }
    }
  }
}

// Any page and any length of a key.
TEST(IndexKeyStore, SameBytesAsReferenceForAnyPage) {
  for (const std::int64_t page : {16, 32, 64, 128}) {
    for (const std::int64_t dim : {32, 64, 128}) {
      for (const DType cache_type : {DType::u8, DType::f32}) {
        Random random(page + dim);
        const bool quantised = cache_type == DType::u8;
        const Tensor k = random.normal(DType::f32, {100, dim});
        Tensor slots(DType::i32, {100});
        const std::int64_t pages = 100 / page + 3;
        for (std::int64_t t = 0; t < 100; ++t) slots.set(t, static_cast<double>(pages * page - 1 - t));
        const auto make = [&] {
          return quantised ? poisoned(cache_type, {pages, page * (dim + 4)})
                           : poisoned(cache_type, {pages, page, dim});
        };
        const Tensor got = make();
        const Tensor expected = make();
        index_key_store({.k = k, .slots = slots, .cache = got}, test_context());
        index_key_store_ref({.tokens = 100, .dim = dim, .cache = cache_type, .page = page},
                            {.k = k, .slots = slots, .cache = expected}, test_context());
        expect_same_bytes(got, expected);
        if (!quantised) continue;
        const std::int64_t entry = page - 1;  // token 0 is the last of the last page
        const auto* last = got.as<std::uint8_t>() + (pages - 1) * page * (dim + 4);
        float scale;
        std::memcpy(&scale, last + page * dim + 4 * entry, 4);
        for (std::int64_t i = 0; i < dim; ++i)
          ASSERT_EQ(last[entry * dim + i], float_to_f8e4m3(k.as<float>()[i] / scale));
      }
    }
  }
}

TEST(IndexKeyStore, RejectsBadArguments) {
  const Tensor k = poisoned(DType::f32, {1, 128});
  const Tensor cache = poisoned(DType::u8, {2, 8448});
  const Tensor slot = tensor_of<int>(DType::i32, {1}, {128});
  EXPECT_ERROR(InvalidArgument, "index_key_store: 'slots' must be from -1 to 127, got 128 at [0]",
               index_key_store({.k = k, .slots = slot, .cache = cache}, test_context()));
  EXPECT_ERROR(
      InvalidArgument, "'cache' must have pages of 16, 32, 64 or 128 keys of 128 + 4 bytes, got [2,8192]",
      index_key_store({.k = k, .slots = slot, .cache = poisoned(DType::u8, {2, 8192})}, test_context()));
  EXPECT_ERROR(
      InvalidArgument, "'cache' must have keys of 32, 64 or 128 values if it is u8, got 96",
      index_key_store({.k = poisoned(DType::f32, {1, 96}), .slots = slot, .cache = cache}, test_context()));
  EXPECT_ERROR(
      InvalidArgument, "'ue8m0' must be false with an f32 cache, got true",
      index_key_store({.k = k, .slots = slot, .cache = poisoned(DType::f32, {3, 64, 128}), .ue8m0 = true},
                      test_context()));
}

}  // namespace
}  // namespace fathom
