#include "fathom/ops/index_key_prepare.hpp"

#include "fathom/ops/hadamard.hpp"
#include "fathom/ops/index_key_store.hpp"
#include "fathom/ops/layer_norm.hpp"
#include "ops/index_key_prepare/index_key_prepare_impl.hpp"
#include "ops/prepare_test.hpp"

namespace fathom {
namespace {

/// The ops that index_key_prepare stands for, one after another.
void chain(const IndexKeyPrepareArgs& args, const Context& context) {
  const Tensor k(DType::f32, {args.k.size(0), args.k.size(1)});
  layer_norm({args.k, args.weight, args.bias, k, args.epsilon}, context);
  rope({with_one_head(k), args.positions, args.cos_sin, args.offset, args.style}, context);
  if (args.hadamard) hadamard({k, k}, context);
  index_key_store({k, args.slots, args.cache, args.ue8m0}, context);
}

constexpr std::int64_t kPages = 8;

Tensor pages(DType dtype, std::int64_t dim, std::int64_t page = 64) {
  return dtype == DType::u8 ? poisoned(DType::u8, {kPages, page * (dim + 4)})
                            : poisoned(DType::f32, {kPages, page, dim});
}

TEST(IndexKeyPrepare, HasTheBytesOfTheChain) {
  for (const PrepareCase& c : prepare_cases()) {
    for (const DType cache : {DType::u8, DType::f32}) {
      for (const bool ue8m0 : {false, true}) {
        if ((ue8m0 && cache == DType::f32) || (cache == DType::u8 && !fits_u8_pages(c))) continue;
        SCOPED_TRACE(testing::Message() << c << " " << to_string(cache) << " " << ue8m0);
        Random random(c.tokens + c.dim);
        const Tensor k = random.normal(c.x, {c.tokens, c.dim + 3}, 5);
        const Tensor weight = random.uniform(c.weight, {c.dim}, 0.5, 2);
        const Tensor bias = random.normal(c.weight, {c.dim});
        const Tensor positions = random_positions(random, c);
        const Tensor table = random.normal(DType::f32, {kPrepareTable, c.rope_dim});
        const Tensor slots = random_slots(random, c, kPages * c.page);
        const Tensor got = pages(cache, c.dim, c.page);
        const Tensor expected = pages(cache, c.dim, c.page);
        IndexKeyPrepareArgs args{.k = first_columns(k, c.dim),
                                 .weight = weight,
                                 .bias = bias,
                                 .positions = positions,
                                 .cos_sin = table,
                                 .slots = slots,
                                 .cache = got,
                                 .offset = c.offset,
                                 .style = c.style,
                                 .hadamard = c.hadamard,
                                 .ue8m0 = ue8m0,
                                 .epsilon = 1e-5f};
        index_key_prepare(args, test_context());
        args.cache = expected;
        chain(args, test_context());
        expect_same_bytes(got, expected);
        index_key_prepare(args, forced_context("ref:any"));
        for (std::int64_t t = 0; cache == DType::f32 && t < c.tokens; ++t) {
          const auto slot = static_cast<std::int64_t>(slots[t]);
          if (slot < 0) continue;
          const auto key = [&](const Tensor& pages) {
            return TensorView::contiguous(pages.as<float>() + slot * c.dim, DType::f32, {c.dim});
          };
          expect_close(key(got), key(expected), {.relative = 1e-4, .absolute = 1e-4});
        }
      }
    }
  }
}

TEST(IndexKeyPrepare, TokensDoNotDependOnOneAnother) {
  constexpr std::int64_t kTokens = 190;
  Random random(5);
  const Tensor k = random.normal(DType::f32, {kTokens, 128});
  const Tensor weight = random.normal(DType::f32, {128});
  const Tensor table = random.normal(DType::f32, {kTokens, 64});
  Tensor order(DType::i32, {kTokens});  // positions and slots
  for (std::int64_t t = 0; t < kTokens; ++t) order.set(t, static_cast<double>(t * 7 % kTokens));
  const Tensor together = pages(DType::u8, 128);
  const Tensor alone = pages(DType::u8, 128);
  const auto prepare = [&](std::int64_t first, std::int64_t last, const Tensor& cache, int threads) {
    const TensorView part = order.view().rows(first, last);
    index_key_prepare({.k = k.view().rows(first, last),
                       .weight = weight,
                       .bias = weight,
                       .positions = part,
                       .cos_sin = table,
                       .slots = part,
                       .cache = cache},
                      test_context(threads));
  };
  prepare(0, kTokens, together, 2);
  for (std::int64_t t = 0; t < kTokens; ++t) prepare(t, t + 1, alone, 1);
  expect_same_bytes(together, alone);
}

TEST(IndexKeyPrepare, RejectsBadArguments) {
  const Tensor k = poisoned(DType::f32, {1, 128});
  const Tensor weight = poisoned(DType::f32, {128});
  const Tensor table = poisoned(DType::f32, {16, 64});
  const Tensor zero = tensor_of<int>(DType::i32, {1}, {0});
  const Tensor cache = poisoned(DType::u8, {2, kIndexKeyPageBytes});
  const auto fails = [&](const char* message, const auto& change) {
    IndexKeyPrepareArgs args{k, weight, weight, zero, table, zero, cache};
    change(args);
    EXPECT_ERROR(InvalidArgument, message, index_key_prepare(args, test_context()));
  };
  const Tensor far = tensor_of<int>(DType::i32, {1}, {128});
  fails("index_key_prepare: 'slots' must be from -1 to 127, got 128 at [0]", [&](auto& a) { a.slots = far; });
  fails("'positions' must be in [0,16), got 128 at token 0", [&](auto& a) { a.positions = far; });
  fails("'offset' must leave room for 64 of 128 elements, got 65", [&](auto& a) { a.offset = 65; });
  fails("'epsilon' must be positive", [&](auto& a) { a.epsilon = 0; });
  const Tensor f32_cache = poisoned(DType::f32, {1, 64, 128});
  fails("'ue8m0' must be false with an f32 cache, got true", [&](auto& a) {
    a.cache = f32_cache;
    a.ue8m0 = true;
  });
  const Tensor bf16 = poisoned(DType::bf16, {128});
  fails("'bias' must be f32, got bf16", [&](auto& a) { a.bias = bf16; });
  const Tensor odd = poisoned(DType::f32, {1, 100});
  const Tensor odd_weight = poisoned(DType::f32, {100});
  fails("'dim' must be a power of two with hadamard, got 100", [&](auto& a) {
    a.k = odd;
    a.weight = a.bias = odd_weight;
  });
  EXPECT_EQ(cache.as<std::uint8_t>()[0], 0x7b);  // nothing was written
}

}  // namespace
}  // namespace fathom
