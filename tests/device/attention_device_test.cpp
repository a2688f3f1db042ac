// The indexer's scores and attention over the chosen entries on a device: against the references, and the
// same bytes for the same row in every call.
#include <dlfcn.h>

#include <algorithm>
#include <numeric>
#include <optional>

#include "fathom/ops/index_key_gather.hpp"
#include "fathom/ops/index_key_store.hpp"
#include "fathom/ops/mla_cache_store.hpp"
#include "fathom/ops/mqa_logits.hpp"
#include "fathom/ops/paged_mqa_logits.hpp"
#include "fathom/ops/sparse_mla.hpp"
#include "ops/mqa_logits/mqa_logits_impl.hpp"
#include "ops/sparse_mla/sparse_mla_impl.hpp"
#include "twin.hpp"

namespace fathom {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

void absolute(const TensorView& values, std::int64_t count) {
  const std::int64_t bytes = size_of(values.dtype);
  for (std::int64_t i = 0; i < count; ++i) values.as<std::uint8_t>()[i * bytes + bytes - 1] &= 0x7f;
}

auto heads_of(std::int64_t tokens, std::int64_t heads, std::int64_t dim) {
  return [=](const TensorView& all) { return shaped(all, {tokens, heads, dim}, {all.step(0), dim, 1}); };
}

// One ragged call on every implementation, against the reference with a bound from the magnitudes.
void check_ragged(std::int64_t tokens, std::int64_t keys, std::int64_t heads, std::int64_t dim, DType dtype) {
  const MqaLogitsProblem problem{tokens, keys, heads, dim, dtype};
  SCOPED_TRACE(problem_string(problem));
  Random random(tokens + keys + heads + dim);
  const bool f32 = dtype == DType::f32;
  const Twin q(random.normal(dtype, {tokens, heads * dim + 16}, f32 ? 1 : 60), heads_of(tokens, heads, dim));
  const Twin k(random.normal(dtype, {keys, dim + 16}, f32 ? 1 : 60), columns(dim));
  const Twin k_scale(random.uniform(DType::f32, {keys}, 1e-3, 1e-2));
  const Twin weights(random.normal(DType::f32, {tokens, heads + 4}), columns(heads));
  Tensor from(DType::i32, {tokens});
  Tensor to(DType::i32, {tokens});
  for (std::int64_t t = 0; t < tokens; ++t) {
    from.set(t, static_cast<double>(random.integer(-3, keys / 2)));
    to.set(t, static_cast<double>(random.integer(t % 4 == 3 ? 0 : keys / 2, keys + 5)));
  }
  const Twin first(std::move(from));
  const Twin last(std::move(to));
  const auto args = [&](bool device, const TensorView& logits) {
    const auto view = [device](const Twin& twin) { return device ? twin.device() : twin.host(); };
    return MqaLogitsArgs{.q = view(q),
                         .k = view(k),
                         .k_scale = f32 ? TensorView{} : view(k_scale),
                         .weights = view(weights),
                         .first = view(first),
                         .last = view(last),
                         .logits = logits};
  };
  std::vector<Strided> results;
  std::vector<double> errors;
  const Tensor nan = poisoned(DType::f32, {tokens, keys + 3});
  for (const std::string& implementation : cuda_implementations("mqa_logits")) {
    const OnDevice logits(nan.view(), columns(keys)(nan.view()));
    try {
      mqa_logits(args(true, logits), device_context(implementation));
    } catch (const NoImplementation& declined) {
      ASSERT_TRUE(implementation.starts_with("sm90:")) << declined.what();
      continue;  // not for this shape
    }
    results.push_back(logits.download());
    // Tensor cores keep fewer bits of an FP8 product's sum.
    errors.push_back(implementation == "cuda:simt" ? static_cast<double>(dim + heads + 8) * 0x1p-24
                                                   : 0x1p-12);
  }
  ASSERT_FALSE(results.empty());
  Tensor expected = poisoned(DType::f32, {tokens, keys});
  mqa_logits_ref(problem, args(false, expected), test_context());
  absolute(q.buffer().view(), q.buffer().count());
  absolute(k.buffer().view(), k.buffer().count());
  absolute(weights.buffer().view(), weights.buffer().count());
  Tensor magnitude = poisoned(DType::f32, {tokens, keys});
  mqa_logits_ref(problem, args(false, magnitude), test_context());
  for (std::size_t n = 0; n < results.size(); ++n) {
    const Strided& result = results[n];
    double product = 0, squares = 0;
    for (std::int64_t t = 0; t < tokens; ++t) {
      for (std::int64_t j = 0; j < keys + 3; ++j) {
        const double got = result.buffer[t * (keys + 3) + j];
        const double want = j < keys ? expected[t * keys + j] : std::numeric_limits<double>::quiet_NaN();
        if (std::isnan(want)) {
          ASSERT_TRUE(std::isnan(got)) << "beyond the row " << t;
        } else if (std::isinf(want)) {
          ASSERT_EQ(got, want) << t << "," << j;
        } else {
          ASSERT_NEAR(got, want, errors[n] * magnitude[t * keys + j] + 1e-30) << t << "," << j;
          product += got * want;
          squares += got * got + want * want;
        }
      }
    }
    if (squares > 0) {
      EXPECT_LT(1 - 2 * product / squares, 5e-6);
    }
  }
}

TEST(MqaLogitsOnDevice, AgreesWithTheReference) {
  for (const DType dtype : {DType::f8e4m3, DType::f32}) {
    check_ragged(1, 1, 1, 32, dtype);
    check_ragged(5, 200, 64, 128, dtype);
    check_ragged(9, 130, 8, 64, dtype);
    check_ragged(3, 300, 128, 32, dtype);
    check_ragged(2, 64, 70, 100, dtype);
    check_ragged(7, 300, 20, 64, dtype);
    check_ragged(7, 300, 1, 32, dtype);
    check_ragged(40, 1000, 16, 128, dtype);
  }
}

TEST(MqaLogitsOnDevice, IsAccurateAtTheSizesOfTheModel) { check_ragged(16, 2048, 64, 128, DType::f8e4m3); }

// A paged batch in a cache whose unused pages are NaN, with table entries of -1 where no key is.
struct PagedBatch {
  PagedBatch(std::int64_t batch_size, std::int64_t drafts, std::int64_t head_count, bool f32_cache,
             std::int64_t seed, std::int64_t page_tokens = 64, std::int64_t head_dim = 128)
      : random(seed),
        batch(batch_size),
        next_n(drafts),
        heads(head_count),
        page(page_tokens),
        dim(head_dim),
        table_pages(kColumns / page + 2),
        f32(f32_cache),
        context_lens(lengths()),
        pages(page_count()),
        cache(filled_cache(), [this](const TensorView& all) { return cache_view(all); }),
        block_table(table(), columns(table_pages)),
        q(random.normal(f32 ? DType::f32 : DType::f8e4m3, {batch * next_n, heads * dim}, f32 ? 1 : 60),
          [this](const TensorView& all) {
            const std::int64_t token = all.step(0);
            return shaped(all, {batch, next_n, heads, dim}, {next_n * token, token, dim, 1});
          }),
        weights(random.normal(DType::f32, {batch * next_n, heads})) {}

  static constexpr std::int64_t kColumns = 12 * 64 + 10;

  Tensor lengths() {
    Tensor lens(DType::i32, {batch, next_n});
    constexpr std::int64_t kEdges[] = {0, 1, 63, 64, 65, 127, 128, 192, kColumns};
    for (std::int64_t i = 0; i < lens.count(); ++i) {
      lens.set(i, static_cast<double>(random.integer(0, 1) ? kEdges[random.integer(0, 8)]
                                                           : random.integer(0, kColumns)));
    }
    return lens;
  }
  std::int64_t keys_of(std::int64_t b) const {
    double keys = 0;
    for (std::int64_t i = 0; i < next_n; ++i) keys = std::max(keys, context_lens.buffer()[b * next_n + i]);
    return static_cast<std::int64_t>(keys);
  }
  std::int64_t page_count() const {
    std::int64_t count = 3;  // that nobody uses
    for (std::int64_t b = 0; b < batch; ++b) count += (keys_of(b) + page - 1) / page;
    return count;
  }
  TensorView cache_view(const TensorView& all) const {
    if (f32) return shaped(all, {pages, page, dim}, {all.step(0), dim, 1});
    return all;
  }
  Tensor filled_cache() {
    order.resize(static_cast<std::size_t>(pages));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random.engine());
    Tensor result(f32 ? DType::f32 : DType::u8, {pages, page * (f32 ? dim : dim + 4)});
    std::fill_n(result.as<std::uint8_t>(), result.count() * size_of(result.view().dtype),
                std::uint8_t{0xff});  // NaN
    std::size_t next = 0;
    for (std::int64_t b = 0; b < batch; ++b) {
      const std::int64_t keys = keys_of(b);
      Tensor slots(DType::i64, {keys});
      for (std::int64_t j = 0; j < keys; ++j)
        slots.set(j, static_cast<double>(order[next + static_cast<std::size_t>(j / page)] * page + j % page));
      if (keys > 0)
        index_key_store({random.normal(DType::f32, {keys, dim}), slots, cache_view(result.view())},
                        test_context());
      next += static_cast<std::size_t>((keys + page - 1) / page);
    }
    return result;
  }
  Tensor table() {
    Tensor result(DType::i32, {batch, table_pages + 2});
    std::size_t next = 0;
    for (std::int64_t b = 0; b < batch; ++b) {
      for (std::int64_t i = 0; i < table_pages + 2; ++i) {
        const bool used = i * page < keys_of(b);
        result.set(b * (table_pages + 2) + i, used ? static_cast<double>(order[next++]) : -1.0);
      }
    }
    return result;
  }
  PagedMqaLogitsArgs args(const TensorView& logits) const {
    return {.q = q.device(),
            .cache = cache.device(),
            .weights = weights.device(),
            .context_lens = context_lens.device(),
            .block_table = block_table.device(),
            .schedule = {},
            .logits = logits};
  }

  Random random;
  std::int64_t batch, next_n, heads, page, dim, table_pages;
  bool f32;
  Twin context_lens;
  std::int64_t pages;
  std::vector<std::int64_t> order;
  Twin cache;
  Twin block_table;
  Twin q;
  Twin weights;
};

// Row b * next_n + i of the paged call is a row of a ragged call over the request's keys, and of a paged call
// with every token a request of its own.
void check_paged(const PagedBatch& p, const std::string& implementation) {
  SCOPED_TRACE(testing::Message() << implementation << " " << p.batch << " x " << p.next_n << ", " << p.heads
                                  << " heads of " << p.dim << ", pages of " << p.page);
  const Context& context = device_context(implementation);
  // Scores of one kernel; flattened is what it does with drafts.
  const Context& ragged_context =
      device_context(implementation == "cuda:simt" ? implementation : "sm90:wgmma");
  const Tensor nan = poisoned(DType::f32, {p.batch * p.next_n, PagedBatch::kColumns + 2});
  const OnDevice logits(nan.view(), columns(PagedBatch::kColumns)(nan.view()));
  paged_mqa_logits(p.args(logits), context);
  const Strided got = logits.download();

  const OnDevice flat(nan.view(), columns(PagedBatch::kColumns)(nan.view()));
  for (std::int64_t i = 0; i < p.next_n; ++i) {  // every next_n-th row: views, no copies
    const auto every = [&](TensorView view, std::int64_t rows) {
      view.data = view.as<std::byte>() + i * view.step(0) * size_of(view.dtype);
      view.shape[0] = rows;
      view.stride[0] *= p.next_n;
      return view;
    };
    PagedMqaLogitsArgs args = p.args(every(flat, p.batch));
    args.q.data = args.q.as<std::byte>() + i * args.q.step(1) * size_of(args.q.dtype);
    args.q.shape[1] = 1;
    args.weights = every(args.weights, p.batch);
    args.context_lens.data = args.context_lens.as<std::int32_t>() + i;
    args.context_lens.shape[1] = 1;
    paged_mqa_logits(args, context);
  }
  expect_same_bytes(flat.download().buffer.view(), got.buffer.view());

  for (std::int64_t b = 0; b < p.batch; ++b) {
    const std::int64_t keys = p.keys_of(b);
    const OnDevice len(tensor_of<std::int64_t>(DType::i32, {1}, {keys}));
    const OnDevice gathered(poisoned(p.f32 ? DType::f32 : DType::f8e4m3, {keys, p.dim}));
    const OnDevice scales(poisoned(DType::f32, {keys}));
    const TensorView scale = p.f32 ? TensorView{} : scales.view();
    if (keys > 0)
      index_key_gather({p.cache.device(), p.block_table.device().rows(b, b + 1), len, gathered, scale},
                       device_context("cuda:simt"));
    TensorView q = p.q.device();
    q.data = q.as<std::byte>() + b * q.step(0) * size_of(q.dtype);
    q.rank = 3;
    for (std::size_t axis = 0; axis < 3; ++axis) {
      q.shape[axis] = q.shape[axis + 1];
      q.stride[axis] = q.stride[axis + 1];
    }
    TensorView last = p.context_lens.device();
    last = shaped(last, {p.next_n}, {1}, b * p.next_n);
    const OnDevice first(tensor_of<std::int64_t>(
        DType::i32, {p.next_n}, std::vector<std::int64_t>(static_cast<std::size_t>(p.next_n), 0)));
    const OnDevice ragged(poisoned(DType::f32, {p.next_n, keys}));
    mqa_logits({.q = q,
                .k = gathered,
                .k_scale = scale,
                .weights = p.weights.device().rows(b * p.next_n, (b + 1) * p.next_n),
                .first = first,
                .last = last,
                .logits = ragged},
               keys > 0 ? ragged_context : device_context("cuda:simt"));
    const Strided expected = ragged.download();
    for (std::int64_t i = 0; i < p.next_n; ++i) {
      for (std::int64_t j = 0; j < PagedBatch::kColumns; ++j) {
        const double value = got.buffer[(b * p.next_n + i) * (PagedBatch::kColumns + 2) + j];
        ASSERT_EQ(value, j < keys ? expected.buffer[i * keys + j] : static_cast<double>(kMinusInfinity))
            << b << "," << i << "," << j;
      }
    }
  }
}

TEST(PagedMqaLogitsOnDevice, HasTheScoresOfTheRaggedOpWhateverTheDrafts) {
  for (const std::string& implementation : cuda_implementations("paged_mqa_logits")) {
    for (const std::int64_t next_n : {1, 2, 3, 4, 5, 8}) {
      check_paged(PagedBatch(5, next_n, 64, false, next_n), implementation);
    }
    // More drafts than the sets of two warpgroups have at a time, so that the second has none at last.
    check_paged(PagedBatch(3, 9, 64, false, 12), implementation);
    check_paged(PagedBatch(3, 5, 128, false, 13), implementation);
    check_paged(PagedBatch(3, 5, 64, false, 14, 16), implementation);
    check_paged(PagedBatch(3, 2, 8, false, 9), implementation);
    check_paged(PagedBatch(3, 2, 32, false, 11), implementation);
    if (implementation == "cuda:simt") check_paged(PagedBatch(3, 2, 20, true, 10), implementation);
  }
}

TEST(PagedMqaLogitsOnDevice, TakesPagesAndKeysOfAnySize) {
  for (const std::int64_t page : {16, 32, 64, 128}) {
    for (const std::int64_t dim : {32, 64, 128}) {
      check_paged(PagedBatch(3, 2, 8, false, page + dim, page, dim), "cuda:simt");
      check_paged(PagedBatch(3, 3, page == 32 ? 20 : 16, false, page + dim, page, dim), "sm90:wgmma");
      check_paged(
          PagedBatch(3, 1 + (page / 16 + dim / 32) % 2, page == 32 ? 20 : 16, false, page + dim, page, dim),
          "sm90:wgmma");
      if (dim == 64) check_paged(PagedBatch(2, 1, 8, true, page, page, dim), "cuda:simt");
    }
  }
}

// The emulator counts what is copied to shared memory; a GPU does not tell.
TEST(PagedMqaLogitsOnDevice, ReadsAPageOncePerRequestWhateverTheDrafts) {
  void* const driver = dlopen("libcuda.so.1", RTLD_NOW);
  const auto bytes_read = driver == nullptr ? nullptr
                                            : reinterpret_cast<std::uint64_t (*)(const void*, std::size_t)>(
                                                  dlsym(driver, "fathom_emulator_bytes_read"));
  if (bytes_read == nullptr) GTEST_SKIP() << "not in the emulator";
  for (const std::int64_t next_n : {1, 2, 3, 4, 8, 9}) {
    const PagedBatch p(5, next_n, 16, false, next_n);
    const OnDevice logits(poisoned(DType::f32, {p.batch * next_n, PagedBatch::kColumns}));
    const TensorView cache = p.cache.device();
    bytes_read(cache.data, static_cast<std::size_t>(cache.count()));
    paged_mqa_logits(p.args(logits), device_context("sm90:wgmma"));
    cuda::synchronize(device_context());
    std::int64_t used = 0;
    for (std::int64_t b = 0; b < p.batch; ++b) used += (p.keys_of(b) + p.page - 1) / p.page;
    EXPECT_EQ(bytes_read(nullptr, 0), static_cast<std::uint64_t>(used * cache.step(0))) << next_n;
  }
}

// A block of the kernels for one or two tokens is given the first tiles of a request, the rest is dealt; more
// tokens have requests of one and two tiles one after the other.
TEST(PagedMqaLogitsOnDevice, DealsTheTilesOfManyRequests) {
  for (const std::int64_t batch : {67, 100, 200}) {
    for (const std::int64_t next_n : {1, 2, 3, 4}) {
      check_paged(PagedBatch(batch, next_n, 16, false, batch + next_n), "sm90:wgmma");
    }
  }
}

// A page -1 among those in use, lengths by row, a table row for each of logits, and a schedule of any bytes:
// what the CPU makes of them.
TEST(PagedMqaLogitsOnDevice, TakesWhatMeansNothingAndOtherShapes) {
  for (const std::string& implementation : cuda_implementations("paged_mqa_logits")) {
    for (const std::int64_t page : {16, 64, 128}) {
      const PagedBatch p(4, 3, 8, false, page, page);
      const Context& context = device_context(implementation);
      Tensor with_none(DType::i32, {p.batch * p.next_n, p.table_pages});
      Tensor row_lens(DType::i32, {p.batch * p.next_n});
      for (std::int64_t r = 0; r < p.batch * p.next_n; ++r) {
        row_lens.set(r, p.context_lens.buffer()[r]);
        for (std::int64_t i = 0; i < p.table_pages; ++i) {
          const double entry = p.block_table.buffer()[r / p.next_n * (p.table_pages + 2) + i];
          with_none.set(r * p.table_pages + i, r % p.next_n != 0 ? 1e9 : i % 3 == 1 ? -1 : entry);
        }
      }
      const OnDevice table(with_none);
      const OnDevice lens(row_lens);
      Tensor bytes = poisoned(DType::i32, {20, 2});
      for (std::int64_t i = 0; i < bytes.count(); ++i)
        bytes.set(i, static_cast<double>(Random(i).integer(-(1LL << 31), (1LL << 31) - 1)));
      const OnDevice schedule(bytes);
      const Tensor nan = poisoned(DType::f32, {p.batch * p.next_n, PagedBatch::kColumns});
      const OnDevice clean(nan), native(nan), by_rows(nan);
      PagedMqaLogitsArgs args = p.args(clean);
      paged_mqa_logits(args, context);
      args.block_table = table;
      args.schedule = schedule;
      args.logits = native;
      paged_mqa_logits(args, context);
      const Strided whole = clean.download(), got = native.download();
      for (std::int64_t r = 0; r < p.batch * p.next_n; ++r) {
        for (std::int64_t j = 0; j < PagedBatch::kColumns; ++j) {
          const std::int64_t at = r * PagedBatch::kColumns + j;
          ASSERT_EQ(got.buffer[at],
                    j / page % 3 == 1 ? static_cast<double>(kMinusInfinity) : whole.buffer[at])
              << r << "," << j;
        }
      }
      args.logits = by_rows;
      args.context_lens = {};
      args.row_lens = lens;
      if (implementation == "sm90:wgmma") {
        EXPECT_ERROR(NoImplementation, "needs context_lens of [batch, next_n], got row_lens",
                     paged_mqa_logits(args, context));
      } else {
        paged_mqa_logits(args, context);
        expect_same_bytes(by_rows.download().view, got.view);
      }
    }
  }
}

// More short requests than a block has room for at a time; alone or together, a row has the same bytes.
TEST(PagedMqaLogitsOnDevice, TakesManyShortRequests) {
  for (const std::string implementation : {"sm90:wgmma", "cuda:simt"}) {
    const PagedBatch p(1500, 2, 16, false, 21);
    const Context& context = device_context(implementation);
    const OnDevice together(poisoned(DType::f32, {p.batch * p.next_n, PagedBatch::kColumns}));
    const OnDevice apart(poisoned(DType::f32, {p.batch * p.next_n, PagedBatch::kColumns}));
    paged_mqa_logits(p.args(together), context);
    for (std::int64_t first = 0; first < p.batch; first += 75) {
      const std::int64_t last = first + 75;
      PagedMqaLogitsArgs args = p.args(apart.view().rows(first * p.next_n, last * p.next_n));
      args.q = args.q.rows(first, last);
      args.weights = args.weights.rows(first * p.next_n, last * p.next_n);
      args.context_lens = args.context_lens.rows(first, last);
      args.block_table = args.block_table.rows(first, last);
      paged_mqa_logits(args, context);
    }
    expect_same_bytes(apart.download().view, together.download().view);
  }
}

// Warps that load and score run ahead of each other as far as such short requests let them.
TEST(PagedMqaLogitsOnDevice, TwoHundredRunsOfShortRequestsGiveTheSameBytes) {
  const Context& context = device_context("sm90:wgmma");
  for (const std::int64_t next_n : {1, 2, 4}) {
    const PagedBatch p(1500, next_n, 16, false, 33);
    const OnDevice logits(poisoned(DType::f32, {p.batch * p.next_n, PagedBatch::kColumns}));
    std::optional<Strided> first;
    for (int i = 0; i < 200 && !::testing::Test::HasFailure(); ++i) {
      paged_mqa_logits(p.args(logits), context);
      Strided got = logits.download();
      if (first) {
        expect_same_bytes(got.view, first->view);
      } else {
        first.emplace(std::move(got));
      }
    }
  }
}

// Lengths that change between replays give what a direct call gives; those of the recording were all zero.
TEST(PagedMqaLogitsOnDevice, IsReplayedWithOtherLengths) {
  for (const std::string& implementation : cuda_implementations("paged_mqa_logits")) {
    PagedBatch p(6, 2, 64, false, 4);
    const cuda::Stream stream(device_context());
    const Context context = device_context(implementation).on_stream(stream.handle());
    const OnDevice replayed(poisoned(DType::f32, {p.batch * p.next_n, PagedBatch::kColumns}));
    const OnDevice direct(poisoned(DType::f32, {p.batch * p.next_n, PagedBatch::kColumns}));
    Tensor lens(DType::i32, {p.batch, p.next_n});
    for (std::int64_t i = 0; i < lens.count(); ++i) lens.set(i, 0);
    const OnDevice lengths(lens);
    PagedMqaLogitsArgs args = p.args(replayed);
    args.context_lens = lengths;
    paged_mqa_logits(args, context);
    const cuda::Graph graph = cuda::Graph::capture(context, [&] { paged_mqa_logits(args, context); });
    for (int round = 0; round < 100 && !::testing::Test::HasFailure(); ++round) {
      for (std::int64_t i = 0; i < lens.count(); ++i) {
        lens.set(i, static_cast<double>(
                        p.random.integer(-1, static_cast<std::int64_t>(p.context_lens.buffer()[i]))));
      }
      stream.synchronize();
      lengths.upload(lens);
      graph.launch(context);
      PagedMqaLogitsArgs again = args;
      again.logits = direct;
      paged_mqa_logits(again, context);
      stream.synchronize();
      expect_same_bytes(replayed.download().view, direct.download().view);
    }
  }
}

struct MlaCase {
  std::int64_t tokens, heads, lora, rope_dim, top_k;
  DType q, cache, out;
  bool decode = false;
  bool dense = false;  // the list 0 .. length - 1
  std::int64_t pad =
      2;  // elements between the tokens of the output: 8 leave every row at a multiple of 16 bytes
};

// A cache of which only slots below `used` hold numbers.
Tensor mla_cache(const MlaCase& c, std::int64_t slots, std::int64_t used, Random& random) {
  const std::int64_t width =
      c.cache == DType::u8 ? mla_cache_entry_bytes(c.lora, c.rope_dim) : c.lora + c.rope_dim;
  Tensor cache(c.cache, {slots, width});
  std::fill_n(cache.as<std::uint8_t>(), cache.count() * size_of(c.cache), std::uint8_t{0xff});
  Tensor where(DType::i32, {used});
  for (std::int64_t i = 0; i < used; ++i) where.set(i, static_cast<double>(i));
  mla_cache_store({random.normal(DType::f32, {used, c.lora}), random.normal(DType::f32, {used, c.rope_dim}),
                   where, cache},
                  test_context());
  return cache;
}

void check_mla(const MlaCase& c, const std::string& implementation) {
  const SparseMlaProblem problem{c.tokens, c.heads, c.lora, c.rope_dim, c.top_k,
                                 c.q,      c.cache, c.out,  c.decode};
  SCOPED_TRACE(problem_string(problem) + " " + implementation);
  Random random(c.heads + c.top_k);
  const std::int64_t width = c.lora + c.rope_dim;
  const std::int64_t used = std::max<std::int64_t>(c.top_k, 1) + 40;
  const Twin q(random.normal(c.q, {c.tokens, c.heads * width}), heads_of(c.tokens, c.heads, width));
  const Twin cache(mla_cache(c, used + 5, used, random));
  Tensor list(DType::i32, {c.tokens, c.top_k + 1});
  for (std::int64_t i = 0; i < list.count(); ++i) {
    const bool none = !c.dense && random.integer(0, 3) == 0;
    list.set(i, none || i / (c.top_k + 1) == 2 ? -1.0
                : c.dense                      ? static_cast<double>(i % (c.top_k + 1))
                                               : static_cast<double>(random.integer(0, used - 1)));
  }
  const Twin indices(std::move(list), columns(c.top_k));
  Tensor limits(DType::i32, {c.tokens});
  for (std::int64_t t = 0; t < c.tokens; ++t)
    limits.set(t, static_cast<double>(t == 0 ? c.top_k : random.integer(0, c.top_k)));
  const Twin lengths(std::move(limits));
  Tensor sinks = random.normal(DType::f32, {c.heads}, 2);
  if (c.heads > 2) sinks.set(1, -INFINITY), sinks.set(2, INFINITY);
  const Twin sink(std::move(sinks));
  const Twin lse(poisoned(DType::f32, {c.tokens, c.heads + 1}), columns(c.heads));
  const Twin out(poisoned(c.out, {c.tokens, c.heads * c.lora + c.pad}), heads_of(c.tokens, c.heads, c.lora));
  const SparseMlaArgs args{.q = q.device(),
                           .cache = cache.device(),
                           .indices = indices.device(),
                           .softmax_scale = 0.07f,
                           .out = out.device(),
                           .lengths = lengths.device(),
                           .sink = sink.device(),
                           .lse = lse.device(),
                           .decode = c.decode};
  const Context& context = device_context(implementation);
  sparse_mla(args, context);
  const Strided got = out.download();
  const Strided got_lse = lse.download();
  const TensorView result = heads_of(c.tokens, c.heads, c.lora)(got.buffer.view());
  Tensor expected = poisoned(DType::f32, {c.tokens * c.heads, c.lora});
  const Tensor expected_lse = poisoned(DType::f32, {c.tokens, c.heads});
  SparseMlaProblem exact = problem;
  exact.out = DType::f32;
  on_slices(c.tokens, [&](std::int64_t first, std::int64_t last) {
    SparseMlaProblem slice = exact;
    slice.tokens = last - first;
    sparse_mla_ref(slice,
                   {.q = q.host().rows(first, last),
                    .cache = cache.host(),
                    .indices = indices.host().rows(first, last),
                    .softmax_scale = 0.07f,
                    .out = shaped(expected.view(), {last - first, c.heads, c.lora},
                                  {c.heads * c.lora, c.lora, 1}, first * c.heads * c.lora),
                    .lengths = lengths.host().rows(first, last),
                    .sink = sink.host(),
                    .lse = expected_lse.view().rows(first, last)},
                   test_context(1));
  });
  // Tensor cores take dequantised entries rounded to bf16, 2^-9 of every product, but for up to 16 heads.
  const double lse_error =
      c.cache == DType::u8 && c.heads > 16 && implementation != "cuda:simt" ? 0.015 : 2e-4;
  double product = 0, squares = 0;
  for (std::int64_t t = 0; t < c.tokens; ++t) {
    for (std::int64_t h = 0; h < c.heads; ++h) {
      const double want = expected_lse[t * c.heads + h];
      const double value = got_lse.buffer[t * (c.heads + 1) + h];
      ASSERT_TRUE(value == want || std::abs(value - want) < lse_error)
          << t << "," << h << ": " << value << " " << want;
    }
    ASSERT_TRUE(std::isnan(got_lse.buffer[t * (c.heads + 1) + c.heads]));
    for (std::int64_t i = 0; i < c.heads * c.lora; ++i) {
      const double want = expected[t * c.heads * c.lora + i];
      const double value = static_cast<double>(load_element(result.data, c.out, t * result.step(0) + i));
      ASSERT_NEAR(value, want, 0.02) << t << "," << i;
      if (t == 2) {
        ASSERT_EQ(value, 0) << "no entries";
      }
      product += value * want;
      squares += value * value + want * want;
    }
  }
  if (squares > 0) {
    EXPECT_LT(1 - 2 * product / squares, 1e-5);
  }
  // Alone, and without the -1s.
  for (std::int64_t t = 0; t < std::min<std::int64_t>(c.tokens, 2); ++t) {
    std::vector<std::int64_t> valid;
    for (std::int64_t j = 0; j < static_cast<std::int64_t>(lengths.buffer()[t]); ++j)
      if (indices.buffer()[t * (c.top_k + 1) + j] >= 0)
        valid.push_back(static_cast<std::int64_t>(indices.buffer()[t * (c.top_k + 1) + j]));
    if (valid.empty()) continue;
    const OnDevice alone_list(tensor_of<std::int64_t>(DType::i32, {1, std::ssize(valid)}, valid));
    const Twin alone(poisoned(c.out, {1, c.heads * c.lora + c.pad}), heads_of(1, c.heads, c.lora));
    const Twin alone_lse(poisoned(DType::f32, {1, c.heads + 1}), columns(c.heads));
    SparseMlaArgs one = args;
    one.lengths = {};
    one.lse = alone_lse.device();
    one.q = args.q.rows(t, t + 1);
    one.indices = alone_list;
    one.out = alone.device();
    sparse_mla(one, context);
    expect_same_bytes(alone.download().buffer.view(), got.buffer.view().rows(t, t + 1));
    expect_same_bytes(alone_lse.download().buffer.view(), got_lse.buffer.view().rows(t, t + 1));
  }
  // A sink of minus infinity is none; the lse changes nothing.
  if (c.heads <= 2) return;
  const Twin plain(poisoned(c.out, {c.tokens, c.heads * c.lora + c.pad}),
                   heads_of(c.tokens, c.heads, c.lora));
  SparseMlaArgs without = args;
  without.out = plain.device();
  without.sink = without.lse = {};
  sparse_mla(without, context);
  const Strided bare = plain.download();
  for (std::int64_t t = 0; t < c.tokens; ++t) {
    const std::int64_t row = t * (c.heads * c.lora + c.pad);
    for (std::int64_t d = 0; d < c.lora; ++d) {
      ASSERT_EQ(bare.buffer[row + c.lora + d], got.buffer[row + c.lora + d]) << "a sink of -inf";
      ASSERT_EQ(got.buffer[row + 2 * c.lora + d], 0) << "a sink of inf";
    }
  }
}

// A recorded launch reads its lists when it is replayed, and gives what a direct call gives.
TEST(SparseMlaOnDevice, IsReplayedWithOtherLists) {
  for (const std::string& implementation : cuda_implementations("sparse_mla")) {
    for (const std::int64_t heads : {8, 64}) {
      const MlaCase c{2, heads, 512, 64, 600, DType::bf16, DType::u8, DType::bf16, /*decode=*/true};
      Random random(heads);
      const OnDevice q(random.normal(c.q, {c.tokens, heads * 576}));
      const OnDevice cache(mla_cache(c, 400, 400, random));
      Tensor list(DType::i32, {c.tokens, c.top_k});
      for (std::int64_t i = 0; i < list.count(); ++i) list.set(i, -1);
      const OnDevice indices(list);
      Tensor limits(DType::i32, {c.tokens});
      for (std::int64_t t = 0; t < c.tokens; ++t) limits.set(t, 0);
      const OnDevice lengths(limits);
      const OnDevice replayed(poisoned(c.out, {c.tokens, heads * 512}));
      const OnDevice direct(poisoned(c.out, {c.tokens, heads * 512}));
      const cuda::Stream stream(device_context());
      const Context context = device_context(implementation).on_stream(stream.handle());
      SparseMlaArgs args{.q = heads_of(c.tokens, heads, 576)(q.view()),
                         .cache = cache,
                         .indices = indices,
                         .softmax_scale = 0.07f,
                         .out = heads_of(c.tokens, heads, 512)(replayed.view()),
                         .lengths = lengths,
                         .decode = c.decode};
      sparse_mla(args, context);
      const cuda::Graph graph = cuda::Graph::capture(context, [&] { sparse_mla(args, context); });
      args.out = heads_of(c.tokens, heads, 512)(direct.view());
      for (int round = 0; round < 3; ++round) {
        for (std::int64_t i = 0; i < list.count(); ++i)
          list.set(i, static_cast<double>(random.integer(-1, 399)));
        for (std::int64_t t = 0; t < c.tokens; ++t)
          limits.set(t, static_cast<double>(random.integer(0, c.top_k)));
        stream.synchronize();
        indices.upload(list);
        lengths.upload(limits);
        graph.launch(context);
        sparse_mla(args, context);
        stream.synchronize();
        expect_same_bytes(replayed.download().view, direct.download().view);
      }
    }
  }
}

// In the decode class a token's bytes do not depend on the batch: few tokens have a cluster each, whose
// blocks take a part of the list each; where tokens fill the device, a block takes all parts itself.
TEST(SparseMlaOnDevice, PartsAreAddedUpAlikeByOneBlockAndByACluster) {
  constexpr std::int64_t kTopK = 1100;
  const std::int64_t lists[] = {0, 1, 255, 256, 257, 512, 700, 1024, 1100};
  for (const DType out_type : {DType::bf16, DType::f32}) {
    const DType cache_type = out_type == DType::bf16 ? DType::u8 : DType::bf16;
    for (const auto& [tokens, heads] : {std::pair<std::int64_t, std::int64_t>{150, 64}, {80, 70}}) {
      const MlaCase c{tokens, heads, 512, 64, kTopK, DType::bf16, cache_type, out_type, /*decode=*/true};
      SCOPED_TRACE(tokens);
      Random random(heads);
      const OnDevice q(random.normal(c.q, {tokens, heads * 576}));
      const OnDevice cache(mla_cache(c, 2000, 2000, random));
      Tensor list(DType::i32, {tokens, kTopK});
      for (std::int64_t i = 0; i < list.count(); ++i)
        list.set(i, static_cast<double>(random.integer(0, 1999)));
      Tensor limits(DType::i32, {tokens});
      for (std::int64_t t = 0; t < tokens; ++t) limits.set(t, 0);
      std::vector<std::int64_t> looked_at;
      for (std::int64_t i = 0; i < std::ssize(lists); ++i) {
        looked_at.push_back(i * (tokens - 1) / (std::ssize(lists) - 1));
        limits.set(looked_at.back(), static_cast<double>(lists[i]));
      }
      const OnDevice indices(list), lengths(limits);
      const OnDevice out(poisoned(out_type, {tokens, heads * 512}));
      const OnDevice lse(poisoned(DType::f32, {tokens, heads}));
      const SparseMlaArgs args{.q = heads_of(tokens, heads, 576)(q.view()),
                               .cache = cache,
                               .indices = indices,
                               .softmax_scale = 0.07f,
                               .out = heads_of(tokens, heads, 512)(out.view()),
                               .lengths = lengths,
                               .lse = lse,
                               .decode = true};
      const Context& context = device_context(cuda_implementations("sparse_mla").front());
      sparse_mla(args, context);
      const auto together = out.download();
      const auto together_lse = lse.download();
      for (const std::int64_t t : looked_at) {
        SCOPED_TRACE(t);
        const OnDevice alone(poisoned(out_type, {1, heads * 512}));
        const OnDevice alone_lse(poisoned(DType::f32, {1, heads}));
        SparseMlaArgs one = args;
        one.q = args.q.rows(t, t + 1);
        one.indices = args.indices.rows(t, t + 1);
        one.lengths = args.lengths.rows(t, t + 1);
        one.out = heads_of(1, heads, 512)(alone.view());
        one.lse = alone_lse;
        sparse_mla(one, context);
        expect_same_bytes(alone.download().view, together.view.rows(t, t + 1));
        expect_same_bytes(alone_lse.download().view, together_lse.view.rows(t, t + 1));
      }
    }
  }
}

// Blocks of a cluster and warps of a block meet in any order.
TEST(SparseMlaOnDevice, TwoHundredRunsGiveTheSameBytes) {
  for (const std::string& implementation : cuda_implementations("sparse_mla")) {
    for (const auto& [tokens, heads, decode] :
         {std::tuple{3, 16, true}, {3, 128, true}, {150, 64, true}, {140, 64, false}}) {
      if (tokens > 3 && implementation == "cuda:simt") continue;  // has one form, and takes a minute
      SCOPED_TRACE(testing::Message() << implementation << ", " << heads << " heads");
      Random random(tokens + heads);
      const OnDevice q(random.normal(DType::bf16, {tokens, heads * 576}));
      const OnDevice cache(
          mla_cache({1, 1, 512, 64, 1, DType::bf16, DType::u8, DType::bf16}, 3000, 3000, random));
      Tensor list(DType::i32, {tokens, 1500});
      for (std::int64_t i = 0; i < list.count(); ++i)
        list.set(i, static_cast<double>(random.integer(-1, 2999)));
      const OnDevice indices(list);
      const Tensor nan = poisoned(DType::bf16, {tokens, heads * 512});
      const OnDevice out(nan);
      std::optional<Strided> first;
      for (int i = 0; i < 200 && !HasFailure(); ++i) {
        out.upload(nan);
        sparse_mla({.q = heads_of(tokens, heads, 576)(q.view()),
                    .cache = cache,
                    .indices = indices,
                    .softmax_scale = 0.07f,
                    .out = heads_of(tokens, heads, 512)(out.view()),
                    .decode = decode},
                   device_context(implementation));
        Strided got = out.download();
        if (first) {
          expect_same_bytes(got.buffer, first->buffer);
        } else {
          first.emplace(std::move(got));
        }
      }
    }
  }
}

// Up to 16 heads queries and weights are f16, which has neither their range nor the scales'.
TEST(SparseMlaOnDevice, TakesQueriesAndScalesOfAnySize) {
  constexpr std::int64_t kTokens = 2, kHeads = 12, kWidth = 576, kSlots = 200;
  const double sizes[] = {1e-12, 1e-3, 0.05, 1, 40};
  Random random(3);
  Tensor queries = random.normal(DType::bf16, {kTokens, kHeads * kWidth});
  for (std::int64_t i = 0; i < queries.count(); ++i)
    queries.set(i, queries[i] * (i / kWidth == 5 ? 0 : i / kWidth == 6 ? 1e30 : sizes[i / kWidth % 5]));
  Tensor latent = random.normal(DType::f32, {kSlots, 512});
  for (std::int64_t i = 0; i < latent.count(); i += 128) {
    const double size = i / 512 % 10 == 0 ? 0 : sizes[random.integer(0, 4)] * (i / 512 % 3 == 0 ? 1e-3 : 1);
    for (std::int64_t j = 0; j < 128; ++j) latent.set(i + j, latent[i + j] * size);
  }
  Tensor entries(DType::u8, {kSlots, mla_cache_entry_bytes(512, 64)});
  Tensor list(DType::i32, {kTokens, kSlots});
  for (std::int64_t i = 0; i < list.count(); ++i) list.set(i, static_cast<double>(i % kSlots));
  mla_cache_store(
      {latent, random.normal(DType::f32, {kSlots, 64}), shaped(list.view(), {kSlots}, {1}), entries},
      test_context());
  const Twin q(std::move(queries), heads_of(kTokens, kHeads, kWidth));
  const Twin cache(std::move(entries));
  const Twin indices(std::move(list));
  const SparseMlaProblem problem{kTokens, kHeads, 512, 64, kSlots, DType::bf16, DType::u8, DType::f32};
  const Tensor expected = poisoned(DType::f32, {kTokens, kHeads * 512});
  sparse_mla_ref(problem,
                 {.q = q.host(),
                  .cache = cache.host(),
                  .indices = indices.host(),
                  .softmax_scale = 0.07f,
                  .out = heads_of(kTokens, kHeads, 512)(expected.view())},
                 test_context());
  for (const std::string& implementation : cuda_implementations("sparse_mla")) {
    SCOPED_TRACE(implementation);
    const OnDevice out(poisoned(DType::f32, {kTokens, kHeads * 512}));
    sparse_mla({.q = q.device(),
                .cache = cache.device(),
                .indices = indices.device(),
                .softmax_scale = 0.07f,
                .out = heads_of(kTokens, kHeads, 512)(out.view())},
               device_context(implementation));
    const auto got = out.download();
    for (std::int64_t row = 0; row < kTokens * kHeads; ++row) {
      double largest = 0;
      for (std::int64_t d = 0; d < 512; ++d) largest = std::max(largest, std::abs(expected[row * 512 + d]));
      for (std::int64_t d = 0; d < 512; ++d)
        ASSERT_NEAR(got.buffer[row * 512 + d], expected[row * 512 + d], 1e-3 * largest) << row << "," << d;
    }
  }
}

TEST(SparseMlaOnDevice, AgreesWithTheReferenceAndRowsAreIndependent) {
  constexpr DType f32 = DType::f32, bf16 = DType::bf16, u8 = DType::u8;
  for (const std::string& implementation : cuda_implementations("sparse_mla")) {
    const bool any = implementation == "cuda:simt";
    for (const std::int64_t top_k : {1, 15, 16, 17, 64, 65, 300}) {
      check_mla({4, 16, 512, 64, top_k, bf16, u8, bf16}, implementation);
      if (any) check_mla({4, 5, 512, 64, top_k, f32, f32, f32}, implementation);
    }
    check_mla({3, 128, 512, 64, 2048, bf16, u8, bf16}, implementation);
    check_mla({3, 64, 512, 64, 700, bf16, u8, f32}, implementation);
    check_mla({20, 8, 512, 64, 500, bf16, u8, bf16}, implementation);
    check_mla({3, 32, 512, 64, 700, bf16, u8, bf16}, implementation);
    check_mla({3, 16, 512, 64, 300, f32, bf16, bf16}, implementation);
    check_mla({3, 7, 512, 64, 150, f32, u8, f32}, implementation);
    check_mla({3, 100, 512, 64, 128, bf16, bf16, f32}, implementation);
    check_mla({2, 33, 512, 64, 130, bf16, u8, bf16}, implementation);
    check_mla({3, 128, 512, 64, 1500, bf16, u8, bf16, false, false, /*pad=*/8}, implementation);
    check_mla({3, 40, 512, 64, 200, f32, bf16, bf16, false, /*dense=*/true, /*pad=*/8}, implementation);
    // More than a device has multiprocessors: blocks have several tokens.
    check_mla({150, 64, 512, 64, 150, bf16, bf16, bf16, false, false, /*pad=*/8}, implementation);
    check_mla({150, 100, 512, 64, 70, bf16, u8, bf16, false, false, /*pad=*/8}, implementation);
    check_mla({4, 12, 512, 64, 192, bf16, u8, bf16, false, /*dense=*/true}, implementation);
    check_mla({2, 16, 512, 64, 1100, bf16, u8, bf16, false, /*dense=*/true}, implementation);
    // The decode class, whose parts have 384 entries, or 256.
    for (const std::int64_t top_k : {200, 256, 384, 385, 2048}) {
      check_mla({3, 16, 512, 64, top_k, bf16, u8, bf16, /*decode=*/true}, implementation);
    }
    // The first 256 of a list without gaps are copied before it is made, by one block of a cluster.
    for (const std::int64_t top_k : {256, 257, 385, 1100}) {
      check_mla({3, 16, 512, 64, top_k, bf16, u8, bf16, /*decode=*/true, /*dense=*/true}, implementation);
    }
    check_mla({2, 16, 512, 64, 256, bf16, u8, bf16, false, /*dense=*/true}, implementation);
    check_mla({3, 5, 512, 64, 600, bf16, bf16, f32, /*decode=*/true}, implementation);
    check_mla({3, 32, 512, 64, 1100, bf16, u8, bf16, /*decode=*/true, /*dense=*/true}, implementation);
    check_mla({3, 70, 512, 64, 530, bf16, u8, bf16, /*decode=*/true}, implementation);
    if (!any) continue;
    check_mla({3, 20, 512, 64, 0, f32, u8, f32}, implementation);
    check_mla({3, 7, 37, 5, 100, f32, f32, f32}, implementation);
    check_mla({3, 3, 640, 0, 50, bf16, bf16, f32}, implementation);
  }
}

}  // namespace
}  // namespace fathom
