// What prepares keys and queries on a device: the bytes of the CPU ops.
#include "fathom/cuda/device.hpp"
#include "fathom/ops/index_key_prepare.hpp"
#include "fathom/ops/index_key_store.hpp"
#include "fathom/ops/index_query_prepare.hpp"
#include "fathom/ops/mla_cache_store.hpp"
#include "fathom/ops/mla_prepare.hpp"
#include "ops/prepare_test.hpp"
#include "twin.hpp"

namespace fathom {
namespace {

constexpr std::int64_t kPages = 8;
constexpr std::int64_t kSlots = 192;

// The norms add in the order of 16 lanes with fused products: of AVX-512 on the host.
bool norms_agree() { return cpu_target().starts_with("avx512"); }

/// The same call for the host and the device: views(twin) is host() or device().
const TensorView& on(const Twin& twin, bool device) { return device ? twin.device() : twin.host(); }

/// Everything that index_key_prepare takes.
struct IndexKeyTwins {
  PrepareCase c;
  bool f32, ue8m0;
  Random random;
  Twin k, weight, bias, positions, table, slots, cache;

  static Tensor pages(const PrepareCase& c, bool f32) {
    return f32 ? poisoned(DType::f32, {kPages, c.page * (c.dim + 1)})
               : poisoned(DType::u8, {kPages, c.page * (c.dim + 4) + 3});
  }
  IndexKeyTwins(const PrepareCase& which, bool in_f32, bool powers)
      : c(which),
        f32(in_f32),
        ue8m0(powers),
        random(c.tokens + c.dim),
        k(random.normal(c.x, {c.tokens, c.dim + (c.wide ? 3 : 4)}, 5), columns(c.dim)),
        weight(random.uniform(c.weight, {c.dim}, 0.5, 2)),
        bias(random.normal(c.weight, {c.dim})),
        positions(random_positions(random, c)),
        table(random.normal(DType::f32, {kPrepareTable, c.rope_dim})),
        slots(random_slots(random, c, kPages * c.page)),
        cache(pages(c, f32), [this](const TensorView& all) {
          if (!f32) return shaped(all, {kPages, c.page * (c.dim + 4)}, {all.step(0), 1});
          return shaped(all, {kPages, c.page, c.dim}, {all.step(0), c.dim + 1, 1});
        }) {}

  void run(bool device, const Context& context) const {
    index_key_prepare({.k = on(k, device),
                       .weight = on(weight, device),
                       .bias = on(bias, device),
                       .positions = on(positions, device),
                       .cos_sin = on(table, device),
                       .slots = on(slots, device),
                       .cache = on(cache, device),
                       .offset = c.offset,
                       .style = c.style,
                       .hadamard = c.hadamard,
                       .ue8m0 = ue8m0},
                      context);
  }
};

TEST(IndexKeyPrepareOnDevice, HasTheBytesOfTheCpu) {
  if (!norms_agree()) GTEST_SKIP() << "needs the norms of AVX-512 on the host";
  for (const PrepareCase& c : prepare_cases()) {
    for (const auto& [f32, ue8m0] : {std::pair{false, false}, {false, true}, {true, false}}) {
      if (!f32 && !fits_u8_pages(c)) continue;
      SCOPED_TRACE(testing::Message() << c << " f32 " << f32 << " ue8m0 " << ue8m0);
      const IndexKeyTwins twins(c, f32, ue8m0);
      twins.run(true, device_context("cuda:simt"));
      twins.run(false, test_context());
      twins.cache.expect_same();
    }
  }
}

TEST(IndexKeyPrepareOnDevice, InAGraph) {
  if (!norms_agree()) GTEST_SKIP() << "needs the norms of AVX-512 on the host";
  const IndexKeyTwins twins({90, 128, 64, 0, RopeStyle::half_split, true, DType::f32, DType::bf16}, false,
                            true);
  const Context& context = device_context("cuda:simt");
  const cuda::Stream stream(context);
  const Context on_stream = context.on_stream(stream.handle());
  const cuda::Graph graph = cuda::Graph::capture(on_stream, [&] { twins.run(true, on_stream); });
  twins.cache.expect_same();  // recording stores nothing
  for (int i = 0; i < 3; ++i) graph.launch(on_stream);
  stream.synchronize();
  twins.run(false, test_context());
  twins.cache.expect_same();
}

TEST(IndexQueryPrepareOnDevice, HasTheBytesOfTheCpu) {
  for (const PrepareCase& c : prepare_cases()) {
    for (const auto& [heads, quantised, ue8m0] :
         {std::tuple{1, true, false}, {5, false, false}, {12, true, true}}) {
      if (quantised && c.dim > 128) continue;
      SCOPED_TRACE(testing::Message() << c << " heads " << heads << " quantised " << quantised);
      Random random(c.tokens + c.dim + heads);
      const auto shape = [&, heads = heads](std::int64_t head, std::int64_t offset) {
        return [=](const TensorView& all) { return with_heads(all, heads, c.dim, head, offset); };
      };
      const Twin q(random.normal(c.x, {c.tokens, heads * (c.dim + 4) + 4}, 5), shape(c.dim + 4, 4));
      const Twin positions(random_positions(random, c));
      const Twin table(random.normal(DType::f32, {kPrepareTable, c.rope_dim}));
      const Twin out(poisoned(quantised ? DType::f8e4m3 : DType::f32, {c.tokens, heads * (c.dim + 1)}),
                     shape(c.dim + 1, 0));
      const Twin scale(poisoned(DType::f32, {c.tokens, heads + 1}), columns(heads));
      const Twin gate(random.normal(DType::f32, {c.tokens, heads + 2}), columns(heads));
      const auto run = [&, quantised = quantised, ue8m0 = ue8m0](bool device, const Context& context) {
        index_query_prepare({.q = on(q, device),
                             .positions = on(positions, device),
                             .cos_sin = on(table, device),
                             .out = on(out, device),
                             .scale = quantised ? on(scale, device) : TensorView{},
                             .gate = c.wide ? on(gate, device) : TensorView{},
                             .offset = c.offset,
                             .style = c.style,
                             .hadamard = c.hadamard,
                             .ue8m0 = ue8m0,
                             .softmax_scale = 0.09f},
                            context);
      };
      run(true, device_context("cuda:simt"));
      run(false, test_context());
      out.expect_same();
      scale.expect_same();
      gate.expect_same();
    }
  }
}

// Enough rows for warps that take several heads, the last of a token fewer.
TEST(IndexQueryPrepareOnDevice, ManyHeads) {
  constexpr std::int64_t kTokens = 250, kHeads = 66;
  Random random(2);
  const Twin q(random.normal(DType::bf16, {kTokens, kHeads * 128}),
               [](const TensorView& all) { return with_heads(all, kHeads, 128, 128); });
  const Twin table(random.normal(DType::f32, {kTokens, 64}));
  Tensor order(DType::i32, {kTokens});
  for (std::int64_t t = 0; t < kTokens; ++t) order.set(t, static_cast<double>(kTokens - 1 - t));
  const Twin positions(std::move(order));
  const Twin out(poisoned(DType::f8e4m3, {kTokens, kHeads * 128}),
                 [](const TensorView& all) { return with_heads(all, kHeads, 128, 128); });
  const Twin scale(poisoned(DType::f32, {kTokens, kHeads}));
  for (const bool device : {true, false}) {
    index_query_prepare({.q = on(q, device),
                         .positions = on(positions, device),
                         .cos_sin = on(table, device),
                         .out = on(out, device),
                         .scale = on(scale, device)},
                        device ? device_context("cuda:simt") : test_context());
  }
  out.expect_same();
  scale.expect_same();
}

TEST(IndexPrepareOnDevice, DeclinesRowsTooLong) {
  const Twin q(poisoned(DType::f32, {1, 1024}),
               [](const TensorView& all) { return with_heads(all, 1, 1024, 1024); });
  const Twin table(poisoned(DType::f32, {4, 64}));
  const Twin zero(tensor_of<int>(DType::i32, {1}, {0}));
  EXPECT_ERROR(
      NoImplementation, "cuda:simt: needs a dim up to 512, got 1024",
      index_query_prepare(
          {.q = q.device(), .positions = zero.device(), .cos_sin = table.device(), .out = q.device()},
          device_context()));
}

TEST(MlaPrepareOnDevice, HasTheBytesOfTheCpu) {
  if (!norms_agree()) GTEST_SKIP() << "needs the norms of AVX-512 on the host";
  for (const MlaPrepareCase& shape : mla_prepare_cases({2, 2048, 64, 9})) {
    SCOPED_TRACE(testing::Message() << shape);
    const auto [tokens, lora, rope_dim, heads, style, cache_dtype, x] = shape;
    const PrepareCase c{tokens, lora, rope_dim, 0, style, false, x, DType::bf16, tokens % 2 == 0};
    const DType other = x == DType::f32 ? DType::bf16 : DType::f32;
    Random random(tokens + lora);
    const auto heads_at = [&, heads = heads, rope_dim = rope_dim](std::int64_t head, std::int64_t at) {
      return [=](const TensorView& all) { return with_heads(all, heads, rope_dim, head, at); };
    };
    const Twin latent(random.normal(x, {tokens, lora + 1}, 20), columns(lora));
    const Twin rope(random.normal(x, {tokens, rope_dim + 1}), columns(rope_dim));
    const Twin weight(random.uniform(other, {lora}, 0.5, 2));
    const Twin positions(random_positions(random, c));
    const Twin table(random.normal(DType::f32, {kPrepareTable, rope_dim}));
    const Twin slots(random_slots(random, c, kSlots));
    const std::int64_t width =
        cache_dtype == DType::u8 ? mla_cache_entry_bytes(lora, rope_dim) : lora + rope_dim;
    const Twin cache(poisoned(cache_dtype, {kSlots, width + 3}), columns(width));
    const std::int64_t some = std::max<std::int64_t>(heads, 1);
    const Twin q(random.normal(x, {tokens, some * (rope_dim + 10)}), heads_at(rope_dim + 10, 10));
    const Twin q_out(poisoned(other, {tokens, some * (rope_dim + 1)}), heads_at(rope_dim + 1, 0));
    for (const bool device : {true, false}) {
      mla_prepare({.latent = on(latent, device),
                   .rope = on(rope, device),
                   .weight = on(weight, device),
                   .positions = on(positions, device),
                   .cos_sin = on(table, device),
                   .slots = on(slots, device),
                   .cache = on(cache, device),
                   .q = heads > 0 ? on(q, device) : TensorView{},
                   .q_out = heads > 0 ? on(q_out, device) : TensorView{},
                   .style = style},
                  device ? device_context("cuda:simt") : test_context());
    }
    cache.expect_same();
    q_out.expect_same();
  }
}

// A padded row has whatever slot and position: nothing is stored, and what is not rotated is copied.
TEST(PrepareOnDevice, PassesOverWhatMeansNothing) {
  Random random(1);
  const Twin nowhere(tensor_of<int>(DType::i32, {3}, {-2, 192, 1 << 30}));
  const Twin k(random.normal(DType::f32, {3, 128}));
  const Twin weight(random.normal(DType::f32, {128}));
  const Twin table(random.normal(DType::f32, {8, 64}));
  const Twin index_cache(poisoned(DType::u8, {3, kIndexKeyPageBytes}));
  const Context& context = device_context("cuda:simt");
  index_key_prepare({.k = k.device(),
                     .weight = weight.device(),
                     .bias = weight.device(),
                     .positions = nowhere.device(),
                     .cos_sin = table.device(),
                     .slots = nowhere.device(),
                     .cache = index_cache.device()},
                    context);
  index_cache.expect_same();
  const Twin cache(poisoned(DType::u8, {192, mla_cache_entry_bytes(128, 64)}));
  const Twin q(random.normal(DType::f32, {3, 64}),
               [](const TensorView& all) { return with_heads(all, 1, 64, 64); });
  const TensorView rope = shaped(k.device(), {3, 64}, {128, 1});
  mla_prepare({.latent = k.device(),
               .rope = rope,
               .weight = weight.device(),
               .positions = nowhere.device(),
               .cos_sin = table.device(),
               .slots = nowhere.device(),
               .cache = cache.device(),
               .q = q.device(),
               .q_out = q.device()},
              context);
  cache.expect_same();
  q.expect_same();
  index_query_prepare({.q = q.device(),
                       .positions = nowhere.device(),
                       .cos_sin = table.device(),
                       .out = q.device(),
                       .hadamard = false},
                      context);
  q.expect_same();
}

}  // namespace
}  // namespace fathom
