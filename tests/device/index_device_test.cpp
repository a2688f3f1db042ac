// The indexer over long contexts on a device: scores of rows far longer than any block's share, and the
// choice among them.
#include <algorithm>
#include <limits>
#include <memory>
#include <numeric>

#include "fathom/ops/index_key_gather.hpp"
#include "fathom/ops/index_key_store.hpp"
#include "fathom/ops/index_select.hpp"
#include "fathom/ops/mqa_logits.hpp"
#include "fathom/ops/paged_mqa_logits.hpp"
#include "twin.hpp"

namespace fathom {
namespace {

struct Shape {
  std::vector<std::int64_t> lens;  // of every request's first draft; a draft sees one key more than the last
  std::int64_t next_n, heads, dim, page;
};

// Requests of any length, their keys on shuffled pages of a cache that is NaN elsewhere.
struct LongBatch {
  LongBatch(const Shape& shape, std::int64_t seed)
      : s(shape),
        random(seed),
        batch(std::ssize(s.lens)),
        rows(batch * s.next_n),
        columns_wide(*std::ranges::max_element(s.lens) + s.next_n),
        max_pages(columns_wide / s.page + 1),
        context_lens(lengths()),
        table(pages_of_requests()),
        cache(keys()),
        q(random.normal(DType::f8e4m3, {rows, s.heads * s.dim}, 30),
          [this](const TensorView& all) {
            const std::int64_t token = s.heads * s.dim;
            return shaped(all, {batch, s.next_n, s.heads, s.dim}, {s.next_n * token, token, s.dim, 1});
          }),
        weights(random.normal(DType::f32, {rows, s.heads})) {}

  std::int64_t len(std::int64_t row) const {
    return s.lens[static_cast<std::size_t>(row / s.next_n)] + row % s.next_n;
  }
  Tensor lengths() {
    Tensor lens(DType::i32, {batch, s.next_n});
    for (std::int64_t r = 0; r < rows; ++r) lens.set(r, static_cast<double>(len(r)));
    return lens;
  }
  Tensor pages_of_requests() {
    std::int64_t used = 0;
    Tensor result(DType::i32, {batch, max_pages});
    for (std::int64_t b = 0; b < batch; ++b) {
      for (std::int64_t i = 0; i < max_pages; ++i) {
        const bool live = i * s.page < len((b + 1) * s.next_n - 1);
        result.set(b * max_pages + i, live ? static_cast<double>(used++) : -1.0);
      }
    }
    pages = used + 2;
    std::vector<std::int64_t> order(static_cast<std::size_t>(pages));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random.engine());
    for (std::int64_t i = 0; i < result.count(); ++i) {
      if (result[i] >= 0) result.set(i, static_cast<double>(order[static_cast<std::size_t>(result[i])]));
    }
    return result;
  }
  Tensor keys() {
    Tensor result = poisoned(DType::u8, {pages, s.page * (s.dim + 4)});
    for (std::int64_t b = 0; b < batch; ++b) {
      const std::int64_t count = len((b + 1) * s.next_n - 1);
      Tensor slots(DType::i32, {count});
      for (std::int64_t j = 0; j < count; ++j)
        slots.set(j, table.buffer()[b * max_pages + j / s.page] * static_cast<double>(s.page) +
                         static_cast<double>(j % s.page));
      index_key_store({.k = random.normal(DType::f32, {count, s.dim}), .slots = slots, .cache = result},
                      test_context());
    }
    return result;
  }
  PagedMqaLogitsArgs args(bool device, const TensorView& logits) const {
    const auto on = [device](const Twin& twin) { return device ? twin.device() : twin.host(); };
    return {.q = on(q),
            .cache = on(cache),
            .weights = on(weights),
            .context_lens = on(context_lens),
            .block_table = on(table),
            .schedule = {},
            .logits = logits,
            .row_lens = {}};
  }

  Shape s;
  Random random;
  std::int64_t batch, rows, columns_wide, max_pages, pages = 0;
  Twin context_lens, table, cache, q, weights;
};

// Elements [first, last) without their signs: the highest bit of their last byte.
void make_absolute(const Tensor& t, std::int64_t first, std::int64_t last) {
  const std::int64_t bytes = size_of(t.view().dtype);
  for (std::int64_t i = first; i < last; ++i) t.as<std::uint8_t>()[(i + 1) * bytes - 1] &= 0x7f;
}

// Scores of the host, and of magnitudes, of which errors are fractions.
std::pair<Tensor, Tensor> host_scores(const LongBatch& b) {
  std::pair result{poisoned(DType::f32, {b.rows, b.columns_wide}),
                   poisoned(DType::f32, {b.rows, b.columns_wide})};
  paged_mqa_logits(b.args(false, result.first), test_context());
  make_absolute(b.q.buffer(), 0, b.q.buffer().count());
  make_absolute(b.weights.buffer(), 0, b.weights.buffer().count());
  for (std::int64_t p = 0; p < b.pages; ++p) {
    const std::int64_t begin = p * b.s.page * (b.s.dim + 4);
    make_absolute(b.cache.buffer(), begin, begin + b.s.page * b.s.dim);
  }
  paged_mqa_logits(b.args(false, result.second), test_context());
  return result;
}

void check_long(const Shape& shape, const std::string& implementation) {
  SCOPED_TRACE(testing::Message() << implementation << ", " << shape.next_n << " drafts, " << shape.heads
                                  << " heads of " << shape.dim << ", pages of " << shape.page);
  const Seed seed;
  const LongBatch b(shape, seed.value);
  const std::int64_t wide = b.columns_wide + 5;
  const Tensor nan = poisoned(DType::f32, {b.rows, wide});
  const OnDevice logits(nan.view(), columns(b.columns_wide)(nan.view()));
  paged_mqa_logits(b.args(true, logits), device_context(implementation));
  const Strided got = logits.download();
  const auto [expected, magnitude] = host_scores(b);
  for (std::int64_t r = 0; r < b.rows; ++r) {
    for (std::int64_t j = 0; j < wide; ++j) {
      const double value = got.buffer[r * wide + j];
      if (j >= b.columns_wide) {
        ASSERT_TRUE(std::isnan(value)) << "beyond row " << r;
      } else if (j >= b.len(r)) {
        ASSERT_EQ(value, -std::numeric_limits<double>::infinity()) << r << "," << j;
      } else {
        const std::int64_t at = r * b.columns_wide + j;
        ASSERT_NEAR(value, expected[at], 0x1p-12 * magnitude[at] + 1e-30) << r << "," << j;
      }
    }
  }
}

TEST(PagedMqaLogitsOnDevice, LongContexts) {
  check_long({{70001, 1, 32768, 0}, 1, 8, 32, 64}, "sm90:wgmma");
  check_long({{33000, 40000}, 2, 16, 32, 128}, "sm90:wgmma");
  check_long({{300, 35000, 2047}, 4, 8, 32, 16}, "sm90:wgmma");
  check_long({{33000, 5}, 1, 8, 32, 64}, "cuda:simt");
}

TEST(IndexKeyGatherOnDevice, LongContexts) {
  const Seed seed;
  const LongBatch b({{33000, 0, 9000, 65}, 1, 8, 32, 16}, seed.value);
  const std::int64_t total = 33000 + 9000 + 65;
  const Twin keys(poisoned(DType::f8e4m3, {total, 32}));
  const Twin scales(poisoned(DType::f32, {total}));
  const auto lens = [&](const TensorView& all) { return shaped(all, {b.batch}, {1}); };
  index_key_gather({.cache = b.cache.device(),
                    .block_table = b.table.device(),
                    .lens = lens(b.context_lens.device()),
                    .keys = keys.device(),
                    .scales = scales.device()},
                   device_context("cuda:simt"));
  index_key_gather({.cache = b.cache.host(),
                    .block_table = b.table.host(),
                    .lens = lens(b.context_lens.host()),
                    .keys = keys.host(),
                    .scales = scales.host()},
                   test_context());
  keys.expect_same();
  scales.expect_same();
}

// All sizes that queries of a number of heads are brought to, and the most of everything.
TEST(PagedMqaLogitsOnDevice, AnyNumberOfHeads) {
  for (const std::int64_t heads : {1, 33, 90, 127}) {
    for (const std::int64_t next_n : {1, 3}) check_long({{300, 64}, next_n, heads, 32, 64}, "sm90:wgmma");
  }
  check_long({{300, 64}, 2, 33, 32, 64}, "sm90:wgmma");
  check_long({{200, 65}, 8, 128, 128, 64}, "sm90:wgmma");
}

// Prefill of many tokens, each with a window of its own among keys that reach far.
TEST(MqaLogitsOnDevice, ManyTokensOverLongKeys) {
  constexpr std::int64_t kTokens = 64, kKeys = 36000, kHeads = 8, kDim = 32, kWide = kKeys + 3;
  const Seed seed;
  Random random(seed.value);
  const Twin q(random.normal(DType::f8e4m3, {kTokens, kHeads * kDim}, 30), [](const TensorView& all) {
    return shaped(all, {kTokens, kHeads, kDim}, {kHeads * kDim, kDim, 1});
  });
  const Twin k(random.normal(DType::f8e4m3, {kKeys, kDim}, 30));
  const Twin k_scale(random.uniform(DType::f32, {kKeys}, 1e-3, 1e-2));
  const Twin weights(random.normal(DType::f32, {kTokens, kHeads}));
  Tensor from(DType::i32, {kTokens}), to(DType::i32, {kTokens});
  for (std::int64_t t = 0; t < kTokens; ++t) {
    from.set(t, static_cast<double>(t * 550));
    to.set(t, from[t] + static_cast<double>(random.integer(t % 7 == 0 ? -5 : 0, 900)));
  }
  const Twin first(std::move(from)), last(std::move(to));
  const auto args = [&](bool device, const TensorView& logits) {
    const auto on = [device](const Twin& twin) { return device ? twin.device() : twin.host(); };
    return MqaLogitsArgs{.q = on(q),
                         .k = on(k),
                         .k_scale = on(k_scale),
                         .weights = on(weights),
                         .first = on(first),
                         .last = on(last),
                         .logits = logits};
  };
  const Tensor expected = poisoned(DType::f32, {kTokens, kKeys});
  const Tensor magnitude = poisoned(DType::f32, {kTokens, kKeys});
  mqa_logits(args(false, expected), test_context());
  for (const Twin* twin : {&q, &k, &weights}) make_absolute(twin->buffer(), 0, twin->buffer().count());
  mqa_logits(args(false, magnitude), test_context());
  for (const std::string& implementation : cuda_implementations("mqa_logits")) {
    SCOPED_TRACE(implementation);
    const Tensor nan = poisoned(DType::f32, {kTokens, kWide});
    const OnDevice logits(nan.view(), columns(kKeys)(nan.view()));
    mqa_logits(args(true, logits), device_context(implementation));
    const Strided got = logits.download();
    for (std::int64_t t = 0; t < kTokens; ++t) {
      for (std::int64_t j = 0; j < kWide; ++j) {
        const double value = got.buffer[t * kWide + j];
        const std::int64_t at = t * kKeys + j;
        if (j >= kKeys) {
          ASSERT_TRUE(std::isnan(value)) << "beyond row " << t;
        } else if (std::isinf(expected[at])) {
          ASSERT_EQ(value, expected[at]) << t << "," << j;
        } else {
          ASSERT_NEAR(value, expected[at], 0x1p-12 * magnitude[at] + 1e-30) << t << "," << j;
        }
      }
    }
  }
}

TEST(MqaLogitsOnDevice, TwoHundredRunsGiveTheSameBytes) {
  Random random(8);
  const OnDevice q(random.normal(DType::f8e4m3, {96, 64 * 128}, 30));
  const OnDevice k(random.normal(DType::f8e4m3, {5000, 128}, 30));
  const OnDevice k_scale(random.uniform(DType::f32, {5000}, 1e-3, 1e-2));
  const OnDevice weights(random.normal(DType::f32, {96, 64}));
  Tensor from(DType::i32, {96}), to(DType::i32, {96});
  for (std::int64_t t = 0; t < 96; ++t) to.set(t, static_cast<double>(5000 - 95 + t));
  const OnDevice first(from), last(to);
  for (const std::string& implementation : cuda_implementations("mqa_logits")) {
    std::unique_ptr<Strided> once;
    const OnDevice logits(poisoned(DType::f32, {96, 5000}));
    for (int i = 0; i < 200 && !HasFailure(); ++i) {
      logits.upload(poisoned(DType::f32, {96, 5000}));
      mqa_logits({.q = shaped(q, {96, 64, 128}, {64 * 128, 128, 1}),
                  .k = k,
                  .k_scale = k_scale,
                  .weights = weights,
                  .first = first,
                  .last = last,
                  .logits = logits},
                 device_context(implementation));
      auto got = std::make_unique<Strided>(logits.download());
      if (once == nullptr)
        once = std::move(got);
      else
        expect_same_bytes(got->buffer, once->buffer);
    }
  }
}

// The positions among a device's own scores, by the host.
Tensor host_choice(const LongBatch& b, const TensorView& scores, std::int64_t k, TopKTransform transform) {
  Tensor out = poisoned(DType::i32, {b.rows, k});
  TopKArgs args{.scores = scores,
                .lengths = shaped(b.context_lens.host(), {b.rows}, {1}),
                .transform = transform,
                .out = out,
                .page = b.s.page};
  if (transform == TopKTransform::paged) args.block_table = b.table.host();
  top_k(args, test_context());
  return out;
}

// Where a choice among these scores and one among exact ones differ, the exact scores are as near as the
// error of the scores lets them be.
void expect_near_exchanges(const LongBatch& b, const Tensor& scores, const Tensor& choice) {
  const Tensor exact = poisoned(DType::f32, {b.rows, b.columns_wide});
  paged_mqa_logits(b.args(false, exact), forced_context("ref:any"));
  const std::int64_t k = choice.view().size(1);
  std::int64_t exchanged = 0;
  for (std::int64_t r = 0; r < b.rows; ++r) {
    if (b.len(r) <= k) continue;
    std::vector<std::pair<double, bool>> all;  // exact scores, and whether they are chosen
    double error = 0;
    for (std::int64_t j = 0; j < b.len(r); ++j) {
      all.emplace_back(exact[r * b.columns_wide + j], false);
      error = std::max(error, std::abs(all.back().first - scores[r * b.columns_wide + j]));
    }
    for (std::int64_t i = 0; i < k; ++i) all[static_cast<std::size_t>(choice[r * k + i])].second = true;
    double lowest = std::numeric_limits<double>::infinity(), highest = -lowest;
    for (const auto& [score, chosen] : all)
      chosen ? lowest = std::min(lowest, score) : highest = std::max(highest, score);
    EXPECT_LE(highest - lowest, 2 * error) << r;
    std::ranges::sort(all, std::greater<>(), [](const auto& one) { return one.first; });
    for (std::int64_t i = 0; i < k; ++i) exchanged += !all[static_cast<std::size_t>(i)].second;
  }
  EXPECT_LE(exchanged, b.rows * k / 100);
}

// Lengths on both sides of k and of pages; the workspace's size, native or flattened: the same positions.
TEST(IndexSelectOnDevice, PagedChoosesTheSameInAnyChunksAndForms) {
  constexpr std::int64_t kTopK = 2048;
  const Seed seed;
  const LongBatch b({{0, 63, 127, 191, 2046, 2047, 2048, 4095, 4097}, 2, 16, 32, 64}, seed.value);
  for (const std::string implementation : {"", "cuda:simt"}) {
    const Context& context = device_context(implementation);
    const OnDevice logits(poisoned(DType::f32, {b.rows, b.columns_wide}));
    paged_mqa_logits(b.args(true, logits), context);
    const Strided scores = logits.download();
    const OnDevice row_lens(b.context_lens.buffer().view(), shaped(b.context_lens.buffer(), {b.rows}, {1}));
    for (const TopKTransform transform : {TopKTransform::plain, TopKTransform::paged}) {
      if (!implementation.empty() && transform == TopKTransform::plain) continue;
      const Tensor expected = host_choice(b, scores.view, kTopK, transform);
      if (transform == TopKTransform::plain) expect_near_exchanges(b, scores.buffer, expected);
      const PagedMqaLogitsArgs paged = b.args(true, logits);
      IndexSelectArgs args{.q = paged.q,
                           .weights = paged.weights,
                           .cache = paged.cache,
                           .context_lens = paged.context_lens,
                           .block_table = paged.block_table,
                           .lengths = row_lens,
                           .transform = transform};
      const auto check = [&](std::int64_t chunk) {
        const OnDevice workspace(poisoned(DType::f32, {chunk, b.columns_wide}));
        const OnDevice out(poisoned(DType::i32, {b.rows, kTopK}));
        args.workspace = workspace;
        args.out = out;
        index_select(args, context);
        expect_same_bytes(out.download().view, expected);
      };
      for (const std::int64_t chunk : {2, 7, 100}) {
        if (implementation.empty() || chunk == 7) check(chunk);
      }
      const auto flattened = [&] {
        std::int64_t count = 0;
        for (const FallbackCount& each : context.fallbacks())
          count += each.op == "paged_mqa_logits" && each.implementation == "sm90:flattened" ? each.count : 0;
        return count;
      };
      const std::int64_t before = flattened();
      args.context_lens = {};
      check(100);
      args.context_lens = shaped(paged.context_lens, {b.rows, 1}, {1, 1});  // another shape
      check(8);
      EXPECT_EQ(flattened() - before, implementation.empty() ? 1 + 3 : 0);
    }
  }
}

// Steps of a server that has nothing to do.
TEST(IndexOnDevice, NothingToDo) {
  const Context& context = device_context();
  const auto f32 = [](std::int64_t rows, std::int64_t wide) { return poisoned(DType::f32, {rows, wide}); };
  const auto i32 = [](std::int64_t rows, std::int64_t wide) { return poisoned(DType::i32, {rows, wide}); };
  const OnDevice q(poisoned(DType::f8e4m3, {0, 64 * 128})), one_q(poisoned(DType::f8e4m3, {1, 64 * 128})),
      k(poisoned(DType::f8e4m3, {9, 128})), none(f32(0, 9)), nobody(i32(0, 1)), weights(f32(1, 64)),
      cache(poisoned(DType::u8, {2, kIndexKeyPageBytes})), choice(i32(0, 5)), no_weights(f32(0, 64));
  const auto ints = [](const OnDevice& t) { return shaped(t, {t.view().size(0)}, {1}); };
  const OnDevice scale(poisoned(DType::f32, {9}));
  mqa_logits({.q = shaped(q, {0, 64, 128}, {64 * 128, 128, 1}),
              .k = k,
              .k_scale = scale,
              .weights = no_weights,
              .first = ints(nobody),
              .last = ints(nobody),
              .logits = none},
             context);
  PagedMqaLogitsArgs paged{.q = shaped(q, {0, 2, 64, 128}, {2 * 64 * 128, 64 * 128, 128, 1}),
                           .cache = cache,
                           .weights = no_weights,
                           .context_lens = shaped(nobody, {0, 2}, {2, 1}),
                           .block_table = shaped(nobody, {0, 3}, {3, 1}),
                           .schedule = {},
                           .logits = none,
                           .row_lens = {}};
  paged_mqa_logits(paged, context);
  top_k({.scores = none, .lengths = ints(nobody), .out = choice}, context);
  // A request without keys, pages or room for scores.
  const OnDevice zero(tensor_of<int>(DType::i32, {1}, {0})), no_pages(i32(1, 0)), empty(f32(1, 0)),
      all(i32(1, 5));
  paged.q = shaped(one_q, {1, 1, 64, 128}, {64 * 128, 64 * 128, 128, 1});
  paged.weights = weights;
  paged.context_lens = shaped(zero, {1, 1}, {1, 1});
  paged.block_table = no_pages;
  paged.logits = empty;
  paged_mqa_logits(paged, context);
  top_k({.scores = empty, .lengths = zero, .out = all}, context);
  cuda::synchronize(context);
  for (std::int64_t i = 0; i < 5; ++i) EXPECT_EQ(all.download().buffer[i], -1);
}

}  // namespace
}  // namespace fathom
