#include "fathom/ops/mla_prepare.hpp"

#include "fathom/ops/copy_rows.hpp"
#include "fathom/ops/mla_cache_store.hpp"
#include "fathom/ops/rms_norm.hpp"
#include "ops/prepare_test.hpp"

namespace fathom {
namespace {

constexpr std::int64_t kSlots = 90;

/// The ops that mla_prepare stands for, one after another.
void chain(const MlaPrepareArgs& args, const Context& context) {
  const std::int64_t tokens = args.latent.size(0), rope_dim = args.rope.size(1);
  const Tensor latent(DType::f32, {tokens, args.latent.size(1)});
  const Tensor k(DType::f32, {tokens, rope_dim});
  rms_norm({args.latent, args.weight, latent, args.epsilon}, context);
  copy_rows({args.rope, {}, k}, context);
  rope({with_one_head(k), args.positions, args.cos_sin, 0, args.style}, context);
  mla_cache_store({latent, k, args.slots, args.cache}, context);
  if (!args.q.given()) return;
  const Tensor q(DType::f32, {tokens, args.q.size(1), rope_dim});
  copy_rows({args.q, {}, q}, context);
  rope({q, args.positions, args.cos_sin, 0, args.style}, context);
  copy_rows({q, {}, args.q_out}, context);
}

// Projections side by side, queries at the end of whole heads, rows of the cache with something between them.
TEST(MlaPrepare, HasTheBytesOfTheChain) {
  for (const MlaPrepareCase& shape : mla_prepare_cases({0, 128, 64, 2})) {
    SCOPED_TRACE(testing::Message() << shape);
    const auto [tokens, lora, rope_dim, heads, style, cache_dtype, x] = shape;
    const PrepareCase c{tokens, lora, rope_dim, 0, style, false, x, DType::bf16, tokens % 2 == 0};
    const DType other = x == DType::f32 ? DType::bf16 : DType::f32;
    Random random(tokens + lora);
    const Tensor kv = random.normal(x, {tokens, lora + rope_dim}, 20);
    TensorView rope = first_columns(kv, rope_dim);
    if (rope.data != nullptr) rope.data = rope.as<std::byte>() + lora * size_of(x);
    const Tensor weight = random.uniform(other, {lora}, 0.5, 2);
    const Tensor positions = random_positions(random, c);
    const Tensor table = random.normal(DType::f32, {kPrepareTable, rope_dim});
    const Tensor slots = random_slots(random, c, kSlots);
    const std::int64_t width =
        cache_dtype == DType::u8 ? mla_cache_entry_bytes(lora, rope_dim) : lora + rope_dim;
    const Tensor got = poisoned(cache_dtype, {kSlots, width + 3});
    const Tensor expected = poisoned(cache_dtype, {kSlots, width + 3});
    const Tensor q = random.normal(x, {tokens, heads * (rope_dim + 10)});
    const Tensor q_got = poisoned(other, {tokens, heads * (rope_dim + 1)});
    const Tensor q_expected = poisoned(other, {tokens, heads * (rope_dim + 1)});
    MlaPrepareArgs args{.latent = first_columns(kv, lora),
                        .rope = rope,
                        .weight = weight,
                        .positions = positions,
                        .cos_sin = table,
                        .slots = slots,
                        .cache = first_columns(got, width),
                        .style = style,
                        .epsilon = 1e-5f};
    if (heads > 0) {
      args.q = with_heads(q, heads, rope_dim, rope_dim + 10, 10);
      args.q_out = with_heads(q_got, heads, rope_dim, rope_dim + 1);
    }
    mla_prepare(args, test_context());
    args.cache = first_columns(expected, width);
    if (heads > 0) args.q_out = with_heads(q_expected, heads, rope_dim, rope_dim + 1);
    chain(args, test_context());
    expect_same_bytes(got, expected);
    expect_same_bytes(q_got, q_expected);
    mla_prepare(args, forced_context("ref:any"));
    if (cache_dtype != DType::u8 && tokens > 0) {
      const TensorView used = first_columns(got, width);
      for (std::int64_t t = 0; t < tokens; ++t) {
        const auto slot = static_cast<std::int64_t>(slots[t]);
        if (slot < 0) continue;
        expect_close(used.rows(slot, slot + 1), args.cache.rows(slot, slot + 1),
                     {.relative = cache_dtype == DType::bf16 ? 0x1p-7 : 1e-5, .absolute = 1e-4});
      }
    }
  }
}

TEST(MlaPrepare, TokensDoNotDependOnOneAnotherAndQueriesMayStay) {
  constexpr std::int64_t kTokens = 40;
  Random random(7);
  const Tensor latent = random.normal(DType::f32, {kTokens, 512});
  const Tensor rope = random.normal(DType::f32, {kTokens, 64});
  const Tensor weight = random.normal(DType::f32, {512});
  const Tensor table = random.normal(DType::f32, {kTokens, 64});
  const Tensor q = random.normal(DType::f32, {kTokens, 8, 64});
  const Tensor q_together = poisoned(DType::f32, {kTokens, 8, 64});
  Tensor order(DType::i32, {kTokens});  // positions and slots
  for (std::int64_t t = 0; t < kTokens; ++t) order.set(t, static_cast<double>(t * 7 % kTokens));
  const Tensor together = poisoned(DType::u8, {kTokens, 656});
  const Tensor alone = poisoned(DType::u8, {kTokens, 656});
  const auto prepare = [&](std::int64_t first, std::int64_t last, const Tensor& cache, const Tensor& q_out,
                           int threads) {
    const TensorView part = order.view().rows(first, last);
    mla_prepare({.latent = latent.view().rows(first, last),
                 .rope = rope.view().rows(first, last),
                 .weight = weight,
                 .positions = part,
                 .cos_sin = table,
                 .slots = part,
                 .cache = cache,
                 .q = q.view().rows(first, last),
                 .q_out = q_out.view().rows(first, last)},
                test_context(threads));
  };
  prepare(0, kTokens, together, q_together, 2);
  for (std::int64_t t = 0; t < kTokens; ++t) prepare(t, t + 1, alone, q, 1);
  expect_same_bytes(together, alone);
  expect_same_bytes(q_together, q);
}

TEST(MlaPrepare, RejectsBadArguments) {
  const Tensor latent = poisoned(DType::f32, {2, 128});
  const Tensor rope = poisoned(DType::f32, {2, 8});
  const Tensor weight = poisoned(DType::f32, {128});
  const Tensor table = poisoned(DType::f32, {16, 8});
  const Tensor order = tensor_of<int>(DType::i32, {2}, {0, 1});
  const Tensor cache = poisoned(DType::u8, {4, 148});
  const auto fails = [&](const char* message, const auto& change) {
    MlaPrepareArgs args{latent, rope, weight, order, table, order, cache};
    change(args);
    EXPECT_ERROR(InvalidArgument, message, mla_prepare(args, test_context()));
  };
  const Tensor far = tensor_of<int>(DType::i64, {2}, {-1, 4});
  fails("mla_prepare: 'slots' must be from -1 to 3, got 4 at [1]", [&](auto& a) { a.slots = far; });
  fails("'positions' must be in [0,16), got -1 at token 0", [&](auto& a) { a.positions = far; });
  fails("'rope' must have shape [2,8], got [2,128]", [&](auto& a) { a.rope = latent; });
  const Tensor narrow = poisoned(DType::u8, {4, 136});
  fails("'cache' must have shape [*,148], got [4,136]", [&](auto& a) { a.cache = narrow; });
  const Tensor q = poisoned(DType::f32, {2, 3, 8});
  fails("'q_out' must be given with q and only then, got []", [&](auto& a) { a.q = q; });
  fails("'q_out' must be given with q and only then, got [2,3,8]", [&](auto& a) { a.q_out = q; });
  const Tensor other = poisoned(DType::f32, {2, 4, 8});
  fails("'q_out' must have shape [2,3,8], got [2,4,8]", [&](auto& a) {
    a.q = q;
    a.q_out = other;
  });
  fails("'epsilon' must be positive", [&](auto& a) { a.epsilon = 0; });
  EXPECT_EQ(cache.as<std::uint8_t>()[0], 0x7b);  // nothing was written
}

}  // namespace
}  // namespace fathom
