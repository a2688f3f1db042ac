#include "fathom/ops/top_k.hpp"

#include <cmath>
#include <functional>
#include <limits>

#include "ops/op_test.hpp"
#include "ops/top_k/top_k_impl.hpp"

namespace fathom {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::vector<int> select(const std::vector<float>& scores, std::int64_t k, std::int64_t length,
                        std::int64_t start = 0) {
  const auto n = static_cast<std::int64_t>(scores.size());
  Tensor x(DType::f32, {1, n});
  for (std::int64_t i = 0; i < n; ++i) x.as<float>()[i] = scores[static_cast<std::size_t>(i)];
  const Tensor out = poisoned(DType::i32, {1, k});
  top_k({.scores = x,
         .lengths = tensor_of<std::int64_t>(DType::i32, {1}, {length}),
         .starts = tensor_of<std::int64_t>(DType::i32, {1}, {start}),
         .out = out},
        test_context());
  return {out.as<std::int32_t>(), out.as<std::int32_t>() + k};
}

TEST(TopK, HandComputed) {
  EXPECT_EQ(select({1, 5, 3, 5, 2}, 2, 5), (std::vector<int>{1, 3}));
  EXPECT_EQ(select({1, 5, 3, 5, 5}, 2, 5), (std::vector<int>{1, 3}));        // ties to the lowest position
  EXPECT_EQ(select({9, 9, 1, 5, 3, 9}, 2, 3, 2), (std::vector<int>{1, 2}));  // counted from start
  EXPECT_EQ(select({1, 2, 3}, 4, 3), (std::vector<int>{0, 1, 2, -1}));
  EXPECT_EQ(select({kNan, kNan, 3}, 2, 2), (std::vector<int>{0, 1}));  // not read
  EXPECT_EQ(select({1, 2, 3}, 2, 0), (std::vector<int>{-1, -1}));
  EXPECT_EQ(select({1, 2, 3}, 2, -5), (std::vector<int>{-1, -1}));
  EXPECT_EQ(select({-kInf, kNan, 1, -kInf}, 2, 4), (std::vector<int>{0, 2}));
  EXPECT_EQ(select({kNan, -kNan, -kInf, kNan}, 2, 4), (std::vector<int>{0, 2}));
  EXPECT_EQ(select({0.0f, -0.0f, 0.0f, -1}, 2, 4), (std::vector<int>{0, 1}));
  EXPECT_EQ(select({-0.0f, 0.0f, 0.0f, -1}, 1, 4), (std::vector<int>{0}));
  EXPECT_EQ(select({-3, kInf, -1, -2}, 2, 4), (std::vector<int>{1, 2}));
}

struct Rows {
  std::string name;
  std::function<float(Random&, std::int64_t)> score;
};

TEST(TopK, AgreesWithReference) {
  std::normal_distribution<float> normal;
  const Rows kinds[] = {
      {"normal", [&](Random& random, std::int64_t) { return normal(random.engine()); }},
      {"flat", [](Random&, std::int64_t) { return 1.5f; }},
      {"nearly flat",
       [](Random& random, std::int64_t) { return 1 + 1e-7f * static_cast<float>(random.integer(0, 3)); }},
      {"few values", [](Random& random, std::int64_t) { return static_cast<float>(random.integer(-2, 2)); }},
      {"ascending", [](Random&, std::int64_t i) { return static_cast<float>(i); }},
      {"descending", [](Random&, std::int64_t i) { return -static_cast<float>(i); }},
      {"minus infinity", [](Random& random, std::int64_t) { return random.integer(0, 9) ? -kInf : 1.0f; }},
      {"NaN", [](Random& random, std::int64_t) { return random.integer(0, 1) ? kNan : -kInf; }},
      {"any bits",
       [](Random& random, std::int64_t) {
         return __builtin_bit_cast(float, static_cast<std::uint32_t>(random.engine()()));
       }},
  };
  for (const auto& kind : kinds) {
    for (const std::int64_t n : {1, 63, 64, 65, 257, 2047, 2048, 2049, 5000, 40000}) {
      for (const std::int64_t k : {1, 64, 256, 2048}) {
        SCOPED_TRACE(kind.name + " n=" + std::to_string(n) + " k=" + std::to_string(k));
        Random random(n + k);
        Tensor scores(DType::f32, {3, n + 2});
        for (std::int64_t i = 0; i < scores.count(); ++i) scores.as<float>()[i] = kind.score(random, i);
        const Tensor lengths = tensor_of<std::int64_t>(DType::i32, {3}, {n, n / 2, std::min(n, k + 1)});
        const Tensor starts = tensor_of<std::int64_t>(DType::i32, {3}, {1, 2, 0});
        const Tensor got = poisoned(DType::i32, {3, k});
        const Tensor expected = poisoned(DType::i32, {3, k});
        const TopKArgs args{.scores = scores, .lengths = lengths, .starts = starts, .out = got};
        top_k(args, test_context());
        TopKArgs reference = args;
        reference.out = expected;
        top_k_ref({.rows = 3, .n = n + 2, .k = k}, reference, test_context());
        for (std::int64_t i = 0; i < 3 * k; ++i) ASSERT_EQ(got[i], expected[i]) << "at " << i;
      }
    }
  }
}

TEST(TopK, Transforms) {
  Random random(5);
  const Tensor scores = random.normal(DType::f32, {4, 300});
  const Tensor lengths = tensor_of<int>(DType::i32, {4}, {300, 250, 3, 0});
  const Tensor plain = poisoned(DType::i32, {4, 100});
  top_k({.scores = scores, .lengths = lengths, .out = plain}, test_context());
  const Tensor table = tensor_of<int>(DType::i32, {2, 5}, {9, 3, 7, 0, 4, 2, 8, 1, 6, 5});
  const auto expect = [&](const Tensor& out, const auto& of) {
    for (std::int64_t i = 0; i < 400; ++i) {
      const int p = plain.as<std::int32_t>()[i];
      EXPECT_EQ(out.as<std::int32_t>()[i], p < 0 ? -1 : of(i / 100, p));
    }
  };
  const auto slot = [&](std::int64_t request, int p) {
    return table.as<std::int32_t>()[request * 5 + p / 64] * 64 + p % 64;
  };
  const Tensor out = poisoned(DType::i32, {4, 100});
  TopKArgs args{.scores = scores,
                .lengths = lengths,
                .transform = TopKTransform::paged,
                .block_table = table,
                .out = out};
  top_k(args, test_context());
  expect(out, [&](std::int64_t r, int p) { return slot(r / 2, p); });  // two rows a request
  const Tensor requests = tensor_of<int>(DType::i32, {4}, {1, 1, 0, 1});
  args.requests = requests;
  top_k(args, test_context());
  expect(out, [&](std::int64_t r, int p) { return slot(r == 2 ? 0 : 1, p); });
  const Tensor offsets = tensor_of<int>(DType::i32, {4}, {5, 0, 1000, 7});
  top_k({.scores = scores,
         .lengths = lengths,
         .transform = TopKTransform::ragged,
         .offsets = offsets,
         .out = out},
        test_context());
  expect(out, [&](std::int64_t r, int p) { return p + offsets.as<std::int32_t>()[r]; });
}

TEST(TopK, PagesOfOtherSizes) {
  Random random(12);
  const Tensor scores = random.normal(DType::f32, {2, 700});
  const Tensor lengths = tensor_of<int>(DType::i32, {2}, {700, 90});
  const Tensor plain = poisoned(DType::i32, {2, 100});
  top_k({.scores = scores, .lengths = lengths, .out = plain}, test_context());
  for (const int page : {16, 32, 64, 128}) {
    Tensor table(DType::i32, {1, 700 / page + 1});
    for (std::int64_t i = 0; i < table.count(); ++i)
      table.set(i, i % 3 == 1 ? -1.0 : static_cast<double>(random.integer(0, 99)));
    const Tensor out = poisoned(DType::i32, {2, 100});
    TopKArgs args{.scores = scores,
                  .lengths = lengths,
                  .transform = TopKTransform::paged,
                  .block_table = table,
                  .out = out,
                  .page = page};
    top_k(args, test_context());
    for (std::int64_t i = 0; i < 200; ++i) {
      const int p = plain.as<std::int32_t>()[i];
      const int at = p < 0 ? -1 : table.as<std::int32_t>()[p / page];
      ASSERT_EQ(out.as<std::int32_t>()[i], at < 0 ? -1 : at * page + p % page) << i;
    }
    args.page = page + 1;
    EXPECT_ERROR(InvalidArgument, "top_k: 'page' must be 16, 32, 64 or 128, got",
                 top_k(args, test_context()));
  }
}

TEST(TopK, RowsDoNotDependOnOneAnother) {
  Random random(8);
  const Tensor scores = random.normal(DType::f32, {40, 700});
  Tensor lengths(DType::i32, {40});
  for (std::int64_t r = 0; r < 40; ++r) lengths.set(r, static_cast<double>(random.integer(0, 700)));
  const Tensor together = poisoned(DType::i32, {40, 256});
  const Tensor alone = poisoned(DType::i32, {40, 256});
  top_k({.scores = scores, .lengths = lengths, .out = together}, test_context(2));
  for (std::int64_t r = 0; r < 40; ++r) {
    top_k({.scores = scores.view().rows(r, r + 1),
           .lengths = lengths.view().rows(r, r + 1),
           .out = alone.view().rows(r, r + 1)},
          test_context(1));
  }
  expect_same_bytes(together, alone);
}

TEST(TopK, NoScoresAreNeededForShortRows) {
  const Tensor out = poisoned(DType::i32, {2, 4});
  top_k({.lengths = tensor_of<int>(DType::i32, {2}, {4, 2}), .out = out}, test_context());
  const std::vector<int> got(out.as<std::int32_t>(), out.as<std::int32_t>() + 8);
  EXPECT_EQ(got, (std::vector<int>{0, 1, 2, 3, 0, 1, -1, -1}));
  EXPECT_ERROR(InvalidArgument, "top_k: 'scores' must be given if a length exceeds k, got 5 at [1]",
               top_k({.lengths = tensor_of<int>(DType::i32, {2}, {4, 5}), .out = out}, test_context()));
}

TEST(TopK, RejectsBadArguments) {
  const Tensor scores = poisoned(DType::f32, {2, 100});
  const Tensor out = poisoned(DType::i32, {2, 4});
  const Tensor lengths = tensor_of<int>(DType::i32, {2}, {100, 90});
  EXPECT_ERROR(InvalidArgument, "top_k: 'lengths' must keep the range within 100 scores, got 20 + 90 at [1]",
               top_k({.scores = scores,
                      .lengths = lengths,
                      .starts = tensor_of<int>(DType::i32, {2}, {0, 20}),
                      .out = out},
                     test_context()));
  EXPECT_ERROR(InvalidArgument, "'lengths' must be at most 64 * max_pages = 64, got 100 at [0]",
               top_k({.scores = scores,
                      .lengths = lengths,
                      .transform = TopKTransform::paged,
                      .block_table = tensor_of<int>(DType::i32, {1, 1}, {0}),
                      .out = out},
                     test_context()));
  EXPECT_ERROR(InvalidArgument, "'requests' must be rows of the block table, below 1, got 1 at [1]",
               top_k({.scores = scores,
                      .lengths = lengths,
                      .transform = TopKTransform::paged,
                      .block_table = tensor_of<int>(DType::i32, {1, 2}, {0, 1}),
                      .requests = tensor_of<int>(DType::i32, {2}, {0, 1}),
                      .out = out},
                     test_context()));
  EXPECT_ERROR(InvalidArgument, "'block_table' must have a number of rows that divides 2, got [3,2]",
               top_k({.scores = scores,
                      .lengths = lengths,
                      .transform = TopKTransform::paged,
                      .block_table = poisoned(DType::i32, {3, 2}),
                      .out = out},
                     test_context()));
  EXPECT_ERROR(InvalidArgument, "'offsets' must be left out unless the transform is ragged",
               top_k({.scores = scores, .lengths = lengths, .offsets = lengths, .out = out}, test_context()));
  EXPECT_EQ(parse_problem<TopKProblem>("top_k:rows=3,transform=ragged"),
            (TopKProblem{.rows = 3, .transform = TopKTransform::ragged}));
}

}  // namespace
}  // namespace fathom
