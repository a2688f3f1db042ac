// top_k on a device: exactly the reference's positions, whatever the scores.
#include "fathom/ops/index_select.hpp"
#include "fathom/ops/mqa_logits.hpp"
#include "fathom/ops/top_k.hpp"
#include "twin.hpp"

namespace fathom {
namespace {

enum class Scores { normal, positive, flat, few_values, ascending, spikes, with_nan, late, deceptive };
constexpr Scores kScores[] = {Scores::normal,     Scores::positive,  Scores::flat,
                              Scores::few_values, Scores::ascending, Scores::spikes,
                              Scores::with_nan,   Scores::late,      Scores::deceptive};

Tensor scores_of(Scores kind, std::int64_t rows, std::int64_t n, Random& random) {
  Tensor scores = random.normal(DType::f32, {rows, n});
  auto* x = scores.as<float>();
  for (std::int64_t i = 0; i < rows * n; ++i) {
    const auto column = static_cast<float>(i % n);
    switch (kind) {
      case Scores::normal:
        break;
      case Scores::positive:
        x[i] = 100 + x[i];
        break;
      case Scores::flat:
        x[i] = i % 2 == 0 ? 0.0f : -0.0f;
        break;
      case Scores::few_values:
        x[i] = std::round(x[i]);
        break;
      case Scores::ascending:
        x[i] = column;
        break;
      case Scores::spikes:  // what the sample does not see
        x[i] = i % 37 == 5 ? 1e30f * std::abs(x[i]) : 0;
        break;
      case Scores::with_nan:
        if (i % 3 == 0) x[i] = std::numeric_limits<float>::quiet_NaN();
        if (i % 3 == 1) x[i] = -std::numeric_limits<float>::infinity();
        break;
      case Scores::deceptive:  // runs at 64 places are larger than all else: a sample of them promises too
                               // much
        x[i] = (i % n + 70) * 64 % n < 90 * 64 ? 10 + std::abs(x[i])
               : i % 5 == 0                    ? std::numeric_limits<float>::quiet_NaN()
                                               : -1.0f;
        break;
      case Scores::late:  // the last positions have it all
        x[i] += column > 0.9f * static_cast<float>(n) ? 50.0f : 0.0f;
        break;
    }
  }
  return scores;
}

Tensor integers(Random& random, std::int64_t count, std::int64_t low, std::int64_t high) {
  Tensor result(DType::i32, {count});
  for (std::int64_t i = 0; i < count; ++i) result.set(i, static_cast<double>(random.integer(low, high)));
  return result;
}

void check(std::int64_t rows, std::int64_t n, std::int64_t k, Scores kind, TopKTransform transform,
           std::int64_t page = 64) {
  SCOPED_TRACE(testing::Message() << rows << " x " << n << ", k " << k << " " << static_cast<int>(kind) << " "
                                  << to_string(transform));
  Random random(rows + n + k);
  // Rows at any address, between numbers that are no scores.
  const Twin scores(scores_of(kind, rows, n + (rows + n) % 3, random), columns(n));
  Tensor length = integers(random, rows, std::max<std::int64_t>(n - 70, 0), n);
  Tensor start(DType::i32, {rows});
  for (std::int64_t r = 0; r < rows; ++r) {
    if (r % 5 == 4) length.set(r, static_cast<double>(random.integer(-1, n)));
    if (r % 7 == 6) length.set(r, static_cast<double>(std::min(n, k)));
    start.set(r, static_cast<double>(
                     random.integer(0, n - std::max<std::int64_t>(static_cast<std::int64_t>(length[r]), 0))));
  }
  const Twin lengths(std::move(length));
  const Twin starts(std::move(start));
  const std::int64_t requests = std::max<std::int64_t>(rows / 2, 1);
  Tensor pages = poisoned(DType::i32, {requests, n / page + 3});
  for (std::int64_t i = 0; i < pages.count(); ++i)
    pages.set(i, static_cast<double>(random.integer(-1, 1 << 20)));
  const Twin table(std::move(pages), columns(n / page + 2));
  const Twin owners(integers(random, rows, 0, requests - 1));
  const Twin offsets(integers(random, rows, 0, 1 << 20));
  const auto run = [&](bool device, const TensorView& out, const Context& context) {
    const auto view = [device](const Twin& twin) { return device ? twin.device() : twin.host(); };
    TopKArgs args{
        .scores = view(scores), .lengths = view(lengths), .transform = transform, .out = out, .page = page};
    if (transform != TopKTransform::plain) args.starts = view(starts);
    if (transform == TopKTransform::paged) {
      args.block_table = view(table);
      args.requests = view(owners);
    }
    if (transform == TopKTransform::ragged) args.offsets = view(offsets);
    top_k(args, context);
  };
  const Tensor expected = poisoned(DType::i32, {rows, k + 3});
  run(false, columns(k)(expected), test_context());
  for (const std::string& implementation : cuda_implementations("top_k")) {
    SCOPED_TRACE(implementation);
    if (implementation == "sm90:cluster" && k > 3072) continue;
    const Tensor nan = poisoned(DType::i32, {rows, k + 3});
    const OnDevice out(nan.view(), columns(k)(nan.view()));
    run(true, out, device_context(implementation));
    expect_same_bytes(out.download().buffer.view(), expected.view());
  }
}

TEST(TopKOnDevice, IsExactForAnyScores) {
  for (const Scores kind : kScores) {
    check(3, 5000, 2048, kind, TopKTransform::plain);
    check(2, 20000, 2048, kind, TopKTransform::paged);
    check(2, 20000, 100, kind, TopKTransform::ragged);
    check(2, 8192, 2048, kind, TopKTransform::plain);
    check(2, 16384, 2048, kind, TopKTransform::paged);
    check(10, 40000, 2048, kind, TopKTransform::paged);  // four blocks a row, of any length
  }
  for (const std::int64_t page : {16, 32, 128}) {
    check(3, 5000, 300, Scores::normal, TopKTransform::paged, page);
    check(3, 200, 300, Scores::normal, TopKTransform::paged, page);
  }
}

// More rows than multiprocessors, short ones and such that a block takes one after the other.
TEST(TopKOnDevice, IsExactForManyRowsOfAnyScores) {
  for (const Scores kind : kScores) {
    check(150, 5000, 500, kind, TopKTransform::ragged);
    check(140, 16400, 500, kind, TopKTransform::paged);
  }
  check(300, 17000, 500, Scores::normal, TopKTransform::ragged);
  check(150, 3000, 2048, Scores::normal, TopKTransform::plain);
  check(150, 5000, 2048, Scores::few_values, TopKTransform::plain);  // the k-th is 0 or -0
}

TEST(TopKOnDevice, IsExactForAnySizes) {
  for (const auto& [rows, n, k] :
       {std::tuple{1, 1, 1}, {3, 7, 9},         {2, 2049, 2048},    {2, 6145, 2048},    {3, 8193, 3072},
        {3, 16383, 3072},    {3, 16385, 2048},  {1, 65536, 2048},   {1, 262144, 2048},  {1, 300000, 2048},
        {1, 30000, 5000},    {200, 9000, 512},  {140, 40000, 33},   {140, 5000, 2100},  {150, 6000, 2048},
        {3, 50001, 2048},    {64, 65536, 2048}, {100, 30000, 2048}, {64, 100000, 2048}, {70, 140000, 2048}}) {
    check(rows, n, k, Scores::normal, TopKTransform::plain);
    check(rows, n, k, Scores::late, TopKTransform::paged);
  }
}

// Without lengths above k no score is read; a range that leaves the row ends with it.
TEST(TopKOnDevice, PassesOverWhatMeansNothing) {
  for (const std::string& implementation : cuda_implementations("top_k")) {
    SCOPED_TRACE(implementation);
    const Context& context = device_context(implementation);
    const Twin lengths(tensor_of<int>(DType::i32, {3}, {3, 9, -5}));
    const Twin scores(
        tensor_of<float>(DType::f32, {3, 6}, {1, 2, 3, 4, 5, 6, 6, 5, 4, 3, 2, 1, 0, 0, 0, 0, 0, 0}));
    const Twin starts(tensor_of<int>(DType::i32, {3}, {4, 0, 7}));
    const Twin out(poisoned(DType::i32, {3, 4}));
    top_k({.scores = scores.device(),
           .lengths = lengths.device(),
           .starts = starts.device(),
           .out = out.device()},
          context);
    const int within[] = {0, 1, -1, -1, 0, 1, 2, 3, -1, -1, -1, -1};
    const Strided got = out.download();
    for (std::int64_t i = 0; i < 12; ++i) EXPECT_EQ(got.buffer[i], within[i]) << i;
  }

  // Without scores, which only the general one takes.
  const Twin lengths(tensor_of<int>(DType::i32, {3}, {3, 9, -5}));
  const Twin out(poisoned(DType::i32, {3, 4}));
  top_k({.lengths = lengths.device(), .out = out.device()}, device_context("cuda:simt"));
  const int without[] = {0, 1, 2, -1, 0, 1, 2, 3, -1, -1, -1, -1};
  const Strided got = out.download();
  for (std::int64_t i = 0; i < 12; ++i) EXPECT_EQ(got.buffer[i], without[i]) << i;
}

TEST(TopKOnDevice, IsTheSameOnTwoHundredRunsAndInAGraph) {
  Random random(5);
  const std::int64_t rows = 4;
  const Twin scores(scores_of(Scores::few_values, rows, 30000, random));
  const Twin lengths(integers(random, rows, 25000, 30000));
  const OnDevice nothing(poisoned(DType::i32, {rows, 2048}));
  for (const std::string& implementation : cuda_implementations("top_k")) {
    const Twin out(poisoned(DType::i32, {rows, 2048}));
    const cuda::Stream stream(device_context());
    const Context context = device_context(implementation).on_stream(stream.handle());
    const auto run = [&] {
      top_k({.scores = scores.device(), .lengths = lengths.device(), .out = out.device()}, context);
    };
    run();
    top_k({.scores = scores.host(), .lengths = lengths.host(), .out = out.host()}, test_context());
    stream.synchronize();
    out.expect_same();
    const cuda::Graph graph = cuda::Graph::capture(context, run);
    for (int i = 0; i < 200 && !HasFailure(); ++i) {
      cuda::copy_on_device(context, out.device().data, nothing.view().data, rows * 2048 * 4);
      graph.launch(context);
      stream.synchronize();
      out.expect_same();
    }
  }
}

// The choice of a device among its own scores, whatever the workspace has room for.
TEST(IndexSelectOnDevice, ChoosesTheSameInAnyChunks) {
  const std::int64_t rows = 70, keys = 900, heads = 64, dim = 128, top_k_size = 200;
  const Seed seed;
  Random random(seed.value);
  const OnDevice q(random.normal(DType::f8e4m3, {rows, heads, dim}, 30));
  const OnDevice k(random.normal(DType::f8e4m3, {keys, dim}, 30));
  const OnDevice k_scale(random.uniform(DType::f32, {keys}, 1e-3, 1e-2));
  const OnDevice weights(random.normal(DType::f32, {rows, heads}));
  Tensor starts(DType::i32, {rows}), ends(DType::i32, {rows}), counts(DType::i32, {rows});
  for (std::int64_t t = 0; t < rows; ++t) {
    starts.set(t, static_cast<double>(t % 5 * 11));
    ends.set(t, static_cast<double>(t == 7 ? 77 - 55 : 100 + 11 * t));
    counts.set(t, std::max(ends[t] - starts[t], 0.0));
  }
  const OnDevice first(starts), last(ends), lengths(counts);
  const Context& context = device_context("");
  const OnDevice scores(poisoned(DType::f32, {rows, keys}));
  const OnDevice expected(poisoned(DType::i32, {rows, top_k_size}));
  mqa_logits({.q = q,
              .k = k,
              .k_scale = k_scale,
              .weights = weights,
              .first = first,
              .last = last,
              .logits = scores},
             context);
  top_k({.scores = scores, .lengths = lengths, .starts = first, .out = expected}, context);
  const Strided whole = expected.download();
  for (const std::int64_t chunk : {1, 8, 23, 70, 100}) {
    const OnDevice workspace(poisoned(DType::f32, {chunk, keys}));
    const OnDevice out(poisoned(DType::i32, {rows, top_k_size}));
    index_select({.q = q,
                  .weights = weights,
                  .k = k,
                  .k_scale = k_scale,
                  .first = first,
                  .last = last,
                  .lengths = lengths,
                  .workspace = workspace,
                  .out = out},
                 context);
    expect_same_bytes(out.download().view, whole.view);
  }
}

}  // namespace
}  // namespace fathom
