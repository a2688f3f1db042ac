#include "fathom/ops/paged_mqa_logits.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "fathom/ops/index_key_gather.hpp"
#include "fathom/ops/mqa_logits.hpp"
#include "fathom/ops/paged_mqa_schedule.hpp"
#include "ops/op_test.hpp"
#include "ops/paged_mqa_logits/paged_mqa_logits_impl.hpp"

namespace fathom {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

// A cache with shuffled pages in which every entry that no request uses is NaN, and every block table entry
// that no request needs is no page.
struct Case {
  PagedMqaLogitsProblem problem;
  std::vector<std::int64_t> lens;  // of requests; query i of next_n sees next_n - 1 - i fewer
  Random random{problem.heads * 100 + problem.next_n};
  std::int64_t pages = 0;
  std::int64_t table = 0;
  Tensor q = random.normal(problem.q, {problem.batch, problem.next_n, problem.heads, problem.head_dim}, 2);
  Tensor weights = random.normal(DType::f32, {problem.batch * problem.next_n, problem.heads});
  Tensor context_lens{DType::i32, {problem.batch, problem.next_n}};
  Tensor block_table = shuffled_table();
  Tensor keys = random.normal(DType::f32,
                              {std::accumulate(lens.begin(), lens.end(), std::int64_t{0}), problem.head_dim});
  Tensor cache = filled_cache();

  Case(PagedMqaLogitsProblem given, std::vector<std::int64_t> request_lens)
      : problem(given), lens(std::move(request_lens)) {}

  Tensor shuffled_table() {
    for (const std::int64_t len : lens) {
      pages += (len + problem.page - 1) / problem.page;
      table = std::max(table, (len + problem.page - 1) / problem.page + 1);
    }
    pages += 2;
    std::vector<double> order(static_cast<std::size_t>(pages));
    std::iota(order.begin(), order.end(), 0.0);
    std::shuffle(order.begin(), order.end(), random.engine());
    Tensor result(DType::i32, {problem.batch, table});
    for (std::int64_t b = 0; b < problem.batch; ++b) {
      const std::int64_t len = lens[static_cast<std::size_t>(b)];
      for (std::int64_t i = 0; i < problem.next_n; ++i)
        context_lens.set(b * problem.next_n + i, static_cast<double>(len - (problem.next_n - 1 - i)));
      for (std::int64_t i = 0; i < table; ++i) {
        result.set(b * table + i, i * problem.page < len ? order.back() : -1000);
        if (i * problem.page < len) order.pop_back();
      }
    }
    return result;
  }

  Tensor filled_cache() {
    const bool quantised = problem.q == DType::f8e4m3;
    Tensor result = quantised ? poisoned(DType::u8, {pages, problem.page * (problem.head_dim + 4)})
                              : poisoned(DType::f32, {pages, problem.page, problem.head_dim});
    if (quantised)
      std::memset(result.view().data, 0xff, static_cast<std::size_t>(result.count()));  // NaN in both formats
    Tensor slots(DType::i32, {keys.view().size(0)});
    std::int64_t row = 0;
    for (std::int64_t b = 0; b < problem.batch; ++b)
      for (std::int64_t j = 0; j < lens[static_cast<std::size_t>(b)]; ++j)
        slots.set(row++, block_table[b * table + j / problem.page] * static_cast<double>(problem.page) +
                             static_cast<double>(j % problem.page));
    index_key_store({.k = keys, .slots = slots, .cache = result}, test_context());
    return result;
  }

  PagedMqaLogitsArgs args(const TensorView& logits) const {
    return {.q = q,
            .cache = cache,
            .weights = weights,
            .context_lens = context_lens,
            .block_table = block_table,
            .logits = logits};
  }
  Tensor run(int threads = 2, const TensorView& schedule = {}) const {
    Tensor logits = poisoned(DType::f32, {problem.batch * problem.next_n, problem.max_len});
    PagedMqaLogitsArgs a = args(logits);
    a.schedule = schedule;
    paged_mqa_logits(a, test_context(threads));
    return logits;
  }
  Tensor scheduled(std::int64_t workers) const {
    Tensor schedule = poisoned(DType::i32, {workers + 1, 2});
    paged_mqa_schedule({.context_lens = context_lens, .schedule = schedule}, test_context());
    return schedule;
  }
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const DType type : {DType::f8e4m3, DType::f32}) {
    for (std::int64_t next_n = 1; next_n <= 8; ++next_n)
      all.emplace_back(
          PagedMqaLogitsProblem{.batch = 4, .next_n = next_n, .heads = 5, .max_len = 150, .q = type},
          std::vector<std::int64_t>{next_n - 1, 63 + next_n, 64, 140});
    for (const std::int64_t heads : {1, 2, 31, 64, 128})
      all.emplace_back(PagedMqaLogitsProblem{.batch = 2, .heads = heads, .max_len = 131, .q = type},
                       std::vector<std::int64_t>{65, 128});
    for (const std::int64_t page : {16, 32, 128}) {
      for (const std::int64_t dim : {32, 64, 128})
        all.emplace_back(PagedMqaLogitsProblem{.batch = 5,
                                               .next_n = 2,
                                               .heads = 3,
                                               .head_dim = dim,
                                               .max_len = 260,
                                               .q = type,
                                               .page = page},
                         std::vector<std::int64_t>{page + 1, 1, 127, 128, 260});
    }
    all.emplace_back(PagedMqaLogitsProblem{.batch = 8, .heads = 2, .max_len = 2100, .q = type},
                     std::vector<std::int64_t>{0, 1, 63, 64, 65, 2047, 2048, 2049});
    all.emplace_back(PagedMqaLogitsProblem{.batch = 0, .heads = 2, .max_len = 10, .q = type},
                     std::vector<std::int64_t>{});
  }
  all.emplace_back(
      PagedMqaLogitsProblem{.batch = 2, .heads = 3, .head_dim = 20, .max_len = 70, .q = DType::f32},
      std::vector<std::int64_t>{10, 70});
  return all;
}

// The reference, and the sum of magnitudes that bounds the rounding.
TEST(PagedMqaLogits, AgreesWithReference) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(problem_string(c.problem));
    const Tensor got = c.run();
    const Tensor expected = poisoned(DType::f32, {c.problem.batch * c.problem.next_n, c.problem.max_len});
    paged_mqa_logits_ref(c.problem, c.args(expected), test_context());
    Tensor bound(DType::f32, {c.problem.batch * c.problem.next_n, c.problem.max_len});
    const auto n = static_cast<double>(c.problem.head_dim);
    // |q| and |k| are below 10 and 5.5 standard deviations: a bound for every product.
    for (std::int64_t r = 0; r < c.problem.batch * c.problem.next_n; ++r) {
      double weight = 0;
      double q = 0;
      for (std::int64_t h = 0; h < c.problem.heads; ++h) {
        weight += std::abs(c.weights[r * c.problem.heads + h]);
        double sum = 0;
        for (std::int64_t d = 0; d < c.problem.head_dim; ++d)
          sum += std::abs(c.q[(r * c.problem.heads + h) * c.problem.head_dim + d]);
        q = std::max(q, sum);
      }
      for (std::int64_t j = 0; j < c.problem.max_len; ++j)
        bound.set(r * c.problem.max_len + j,
                  (n + static_cast<double>(c.problem.heads) + 4) * 0x1p-24 * weight * q * 5.5);
    }
    expect_within(got, expected, bound);
  }
}

// Ragged and paged, whatever next_n: the same bytes.
TEST(PagedMqaLogits, SameBytesAsRagged) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(problem_string(c.problem));
    const PagedMqaLogitsProblem& p = c.problem;
    const std::int64_t total = c.keys.view().size(0);
    const bool quantised = p.q == DType::f8e4m3;
    const Tensor keys = poisoned(p.q, {total, p.head_dim});
    const Tensor scales = poisoned(DType::f32, {total});
    index_key_gather({.cache = c.cache,
                      .block_table = c.block_table,
                      .lens = tensor_of<std::int64_t>(DType::i32, {p.batch}, c.lens),
                      .keys = keys,
                      .scales = quantised ? scales.view() : TensorView{}},
                     test_context());
    const std::int64_t rows = p.batch * p.next_n;
    Tensor first(DType::i32, {rows}), last(DType::i32, {rows});
    std::int64_t offset = 0;
    for (std::int64_t b = 0; b < p.batch; ++b) {
      for (std::int64_t i = 0; i < p.next_n; ++i) {
        first.set(b * p.next_n + i, static_cast<double>(offset));
        last.set(b * p.next_n + i, static_cast<double>(offset) + c.context_lens[b * p.next_n + i]);
      }
      offset += c.lens[static_cast<std::size_t>(b)];
    }
    const Tensor ragged = poisoned(DType::f32, {rows, total});
    TensorView q = TensorView::contiguous(c.q.view().data, p.q, {rows, p.heads, p.head_dim});
    mqa_logits({.q = q,
                .k = keys,
                .k_scale = quantised ? scales.view() : TensorView{},
                .weights = c.weights,
                .first = first,
                .last = last,
                .logits = ragged},
               test_context());
    const Tensor paged = c.run();
    for (std::int64_t r = 0; r < rows; ++r) {
      const auto len = static_cast<std::int64_t>(c.context_lens[r]);
      for (std::int64_t j = 0; j < p.max_len; ++j) {
        const auto got = paged.as<std::uint32_t>()[r * p.max_len + j];
        const auto expected =
            j < len ? ragged.as<std::uint32_t>()[r * total + static_cast<std::int64_t>(first[r]) + j]
                    : 0xff800000u;
        ASSERT_EQ(got, expected) << r << " " << j;
      }
    }
  }
}

TEST(PagedMqaLogits, BytesDoNotDependOnBatchThreadsOrSchedule) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(problem_string(c.problem));
    const PagedMqaLogitsProblem& p = c.problem;
    const Tensor together = c.run(2);
    expect_same_bytes(c.run(1), together);
    for (const std::int64_t workers : {1, 3, 100})
      expect_same_bytes(c.run(2, c.scheduled(workers)), together);
    const Tensor alone = poisoned(DType::f32, {p.batch * p.next_n, p.max_len});
    for (std::int64_t b = 0; b < p.batch; ++b) {
      for (std::int64_t i = 0; i < p.next_n; ++i) {
        const std::int64_t row = b * p.next_n + i;
        TensorView q = c.q.view().rows(b, b + 1);
        q.shape[1] = 1;
        q.data = static_cast<std::byte*>(q.data) + i * q.step(1) * size_of(q.dtype);
        TensorView lens = c.context_lens.view().rows(b, b + 1);
        lens.shape[1] = 1;
        lens.data = lens.as<std::int32_t>() + i;
        paged_mqa_logits({.q = q,
                          .cache = c.cache,
                          .weights = c.weights.view().rows(row, row + 1),
                          .context_lens = lens,
                          .block_table = c.block_table.view().rows(b, b + 1),
                          .logits = alone.view().rows(row, row + 1)},
                         test_context(1));
      }
    }
    expect_same_bytes(alone, together);
  }
}

// Rows of `x` along axis 0, `gap` elements further apart.
Tensor spread(const TensorView& x, std::int64_t gap, TensorView& view) {
  const std::int64_t row = x.count() / x.size(0);
  Tensor wide = poisoned(x.dtype, {x.size(0), row + gap});
  const std::int64_t bytes = size_of(x.dtype);
  for (std::int64_t r = 0; r < x.size(0); ++r) {
    std::memcpy(wide.as<std::byte>() + r * (row + gap) * bytes,
                static_cast<std::byte*>(x.data) + r * row * bytes, static_cast<std::size_t>(row * bytes));
  }
  view = x;
  view.data = wide.view().data;
  view.stride[0] = row + gap;
  return wide;
}

TEST(PagedMqaLogits, StridedOperands) {
  for (const DType type : {DType::f8e4m3, DType::f32}) {
    const Case c({.batch = 3, .next_n = 2, .heads = 5, .max_len = 200, .q = type}, {70, 2, 199});
    const Tensor plain = c.run();
    PagedMqaLogitsArgs args = c.args({});
    const Tensor cache = spread(c.cache, 7, args.cache);
    const Tensor q = spread(c.q, 3, args.q);
    const Tensor weights = spread(c.weights, 1, args.weights);
    const Tensor table = spread(c.block_table, 5, args.block_table);
    const Tensor lens = spread(c.context_lens, 2, args.context_lens);
    const Tensor logits = spread(poisoned(DType::f32, {6, 200}), 9, args.logits);
    paged_mqa_logits(args, test_context());
    expect_same_bytes(args.logits, plain);
    for (std::int64_t r = 0; r < 6; ++r) EXPECT_TRUE(std::isnan(logits[r * 209 + 200]));
  }
}

TEST(PagedMqaLogits, AScheduleOfOtherLengthsIsRefused) {
  const Case c({.batch = 3, .heads = 2, .max_len = 1000}, {1000, 300, 700});
  const Case other({.batch = 3, .heads = 2, .max_len = 1000}, {1000, 900, 20});
  EXPECT_ERROR(InvalidArgument,
               "paged_mqa_logits: 'schedule' must be paged_mqa_schedule's for these context_lens: row 2 "
               "(2,0), got (1,2)",
               c.run(2, other.scheduled(3)));
  Tensor schedule = poisoned(DType::i32, {4, 2});
  EXPECT_ERROR(InvalidArgument, "'schedule' must be", c.run(2, schedule));
  for (std::int64_t i = 0; i < 8; ++i) schedule.set(i, 0);  // workers without an end
  EXPECT_ERROR(InvalidArgument, "'schedule' must be", c.run(2, schedule));
}

// Whatever a schedule's memory holds, the call ends: refused, or with the result.
TEST(PagedMqaLogits, AScheduleOfAnyBytesEnds) {
  const Case c({.batch = 4, .next_n = 2, .heads = 2, .max_len = 1500}, {1000, 1500, 3, 700});
  const Tensor expected = c.run();
  Random random(77);
  int refused = 0;
  for (int round = 0; round < 300; ++round) {
    Tensor schedule = c.scheduled(5);
    for (std::int64_t i = random.integer(0, 1); i < schedule.count(); i += random.integer(1, 12)) {
      schedule.set(i, static_cast<double>(round % 2 == 0 ? random.integer(-1, 5)
                                                         : random.integer(-(1LL << 31), (1LL << 31) - 1)));
    }
    try {
      expect_same_bytes(c.run(2, schedule), expected);
    } catch (const InvalidArgument&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 200);
}

// Keys of a page -1 have -infinity; the others what they have with it.
TEST(PagedMqaLogits, PagesThatAreNone) {
  for (const std::int64_t page : {16, 64, 128}) {
    for (const DType type : {DType::f8e4m3, DType::f32}) {
      Case c({.batch = 3, .next_n = 2, .heads = 3, .max_len = 400, .q = type, .page = page}, {400, 130, 77});
      const Tensor whole = c.run();
      Random random(page);
      for (std::int64_t i = 0; i < c.block_table.count(); ++i) {
        if (i >= c.table * 2 || random.integer(0, 2) == 0) c.block_table.set(i, -1);  // request 2 has none
      }
      const Tensor got = c.run();
      const Tensor reference = poisoned(DType::f32, {6, 400});
      paged_mqa_logits_ref(c.problem, c.args(reference), test_context());
      for (std::int64_t r = 0; r < 6; ++r) {
        for (std::int64_t j = 0; j < 400; ++j) {
          const bool none = c.block_table[r / 2 * c.table + j / page] < 0;
          ASSERT_EQ(got[r * 400 + j], none ? -kInf : whole[r * 400 + j]) << r << "," << j;
          ASSERT_EQ(std::isinf(reference[r * 400 + j]), std::isinf(got[r * 400 + j])) << r << "," << j;
        }
      }
    }
  }
}

// Lengths by row, a table with a row for each of logits, and one row for all: the same bytes; only the first
// is a fallback, and it is counted.
TEST(PagedMqaLogits, LengthsAndTablesOfOtherShapes) {
  for (const DType type : {DType::f8e4m3, DType::f32}) {
    const Case c({.batch = 3, .next_n = 3, .heads = 5, .max_len = 150, .q = type}, {70, 64, 140});
    const Tensor native = c.run();
    const Context context = Context(ContextOptions{.threads = 2});
    const Tensor row_lens = tensor_of<double>(DType::i32, {9}, [&] {
      std::vector<double> lens;
      for (std::int64_t i = 0; i < 9; ++i) lens.push_back(c.context_lens[i]);
      return lens;
    }());
    const Tensor schedule = poisoned(DType::i32, {4, 2});
    TensorView by_row = row_lens;
    by_row.rank = 2;
    by_row.shape = {9, 1};
    by_row.stride = {1, 1};
    paged_mqa_schedule({.context_lens = by_row, .schedule = schedule}, context);
    TensorView misshapen = c.context_lens;
    misshapen.shape[0] = 2;
    for (const TensorView& lens : {TensorView{}, misshapen, by_row}) {
      const Tensor logits = poisoned(DType::f32, {9, 150});
      PagedMqaLogitsArgs args = c.args(logits);
      args.context_lens = lens;
      EXPECT_ERROR(InvalidArgument, "paged_mqa_logits: 'context_lens' must", paged_mqa_logits(args, context));
      args.row_lens = row_lens;
      args.schedule = schedule;
      paged_mqa_logits(args, context);
      expect_same_bytes(logits, native);
      paged_mqa_logits_ref(
          {.batch = 3, .next_n = 3, .heads = 5, .max_len = 150, .q = type, .flattened = true}, args,
          context);  // finds the lengths
      for (std::int64_t i = 0; i < logits.count(); ++i)
        ASSERT_EQ(std::isinf(logits[i]), std::isinf(native[i])) << i;
    }
    ASSERT_EQ(context.fallbacks().size(), 1u);
    EXPECT_EQ(context.fallbacks()[0].op, "paged_mqa_logits");
    EXPECT_EQ(context.fallbacks()[0].implementation, "cpu:flattened");
    EXPECT_EQ(context.fallbacks()[0].count, 3);

    const Tensor logits = poisoned(DType::f32, {9, 150});
    PagedMqaLogitsArgs args = c.args(logits);
    Tensor repeated(DType::i32, {9, c.table});
    for (std::int64_t i = 0; i < repeated.count(); ++i) {
      const std::int64_t row = i / c.table;  // nobody reads but the first of a request's three
      repeated.set(i, row % 3 == 0 ? c.block_table[row / 3 * c.table + i % c.table] : 1e9);
    }
    args.block_table = repeated;
    paged_mqa_logits(args, context);
    expect_same_bytes(logits, native);

    args.block_table = c.block_table.view().rows(0, 1);  // three requests on the pages of the first
    args.block_table.shape[0] = 3;
    args.block_table.stride[0] = 0;
    const Tensor lens = tensor_of<int>(DType::i32, {3, 3}, {70, 70, 70, 1, 2, 3, 0, 64, 65});
    args.context_lens = lens;
    paged_mqa_logits(args, context);
    paged_mqa_logits({.q = c.q.view().rows(0, 1),
                      .cache = c.cache,
                      .weights = c.weights.view().rows(0, 3),
                      .context_lens = lens.view().rows(0, 1),
                      .block_table = c.block_table.view().rows(0, 1),
                      .logits = native.view().rows(0, 3)},
                     context);
    expect_same_bytes(logits.view().rows(0, 3), native.view().rows(0, 3));
    EXPECT_EQ(context.fallbacks()[0].count, 3);
  }
}

TEST(PagedMqaLogits, RejectsBadArguments) {
  Case c({.batch = 2, .heads = 2, .max_len = 130}, {130, 64});
  EXPECT_ERROR(
      InvalidArgument,
      "paged_mqa_logits: 'context_lens' must be at most 129, the columns of logits, got 130 in row 0", [&] {
        const Tensor logits = poisoned(DType::f32, {2, 129});
        paged_mqa_logits(c.args(logits), test_context());
      }());
  const double page = c.block_table[2];
  for (const double bad : {-2.0, 6.0, 2e9}) {
    c.block_table.set(2, bad);
    EXPECT_ERROR(InvalidArgument, "'block_table' must hold pages from 0 to 5 or -1", c.run());
  }
  c.block_table.set(2, page);
  c.context_lens.set(1, 65);  // one more than the page it has
  EXPECT_ERROR(InvalidArgument, "at [1,1]", c.run());
  c.context_lens.set(1, -5);
  const Tensor logits = c.run();
  for (std::int64_t j = 0; j < 130; ++j) EXPECT_EQ(logits[130 + j], -kInf);
  c.context_lens.set(1, 1000000);
  EXPECT_ERROR(InvalidArgument, "'context_lens' must be at most 130", c.run());
  const Tensor wide = poisoned(DType::f32, {2, 1000});
  c.context_lens.set(1, 300);
  EXPECT_ERROR(InvalidArgument, "'context_lens' must be at most 64 * max_pages = 256, got 300 in row 1",
               paged_mqa_logits(c.args(wide), test_context()));
}

}  // namespace
}  // namespace fathom
