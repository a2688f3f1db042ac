#include "fathom/ops/sparse_mla.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "fathom/ops/mla_cache_store.hpp"
#include "ops/op_test.hpp"
#include "ops/sparse_mla/sparse_mla_impl.hpp"

namespace fathom {
namespace {

// Random operands. Row t lists a random number of slots (row 0: all of them, row 1: none) between -1s; every
// slot that nobody lists holds NaN.
struct Case {
  SparseMlaProblem problem;
  std::int64_t slots = std::max<std::int64_t>(2 * problem.top_k, 8);
  std::int64_t dim = problem.lora + problem.rope_dim;
  Random random{problem.heads * 7 + problem.top_k + problem.tokens};
  Tensor q = random.normal(problem.q, {problem.tokens, problem.heads, dim});
  Tensor indices = lists();
  Tensor entries = random.normal(DType::f32, {slots, dim}, 1);
  Tensor cache = filled_cache();
  float softmax_scale = 2 / std::sqrt(static_cast<float>(dim));

  explicit Case(const SparseMlaProblem& given) : problem(given) {}

  Tensor lists() {
    Tensor result(DType::i32, {problem.tokens, problem.top_k});
    std::vector<std::int32_t> order(static_cast<std::size_t>(slots - 2));  // the last two are never listed
    std::iota(order.begin(), order.end(), 0);
    for (std::int64_t t = 0; t < problem.tokens; ++t) {
      std::shuffle(order.begin(), order.end(), random.engine());
      const std::int64_t keep = t == 0 ? 100 : t == 1 ? 0 : random.integer(0, 100);
      for (std::int64_t j = 0; j < problem.top_k; ++j) {
        const bool listed = random.integer(0, 99) < keep;
        result.set(t * problem.top_k + j, listed ? order[static_cast<std::size_t>(j)] : -1);
      }
    }
    return result;
  }

  Tensor filled_cache() {
    const bool quantised = problem.cache == DType::u8;
    const std::int64_t width = quantised ? mla_cache_entry_bytes(problem.lora, problem.rope_dim) : dim;
    Tensor result(problem.cache, {slots, width});
    std::memset(result.view().data, 0xff, static_cast<std::size_t>(result.count() * size_of(problem.cache)));
    Tensor slot(DType::i32, {slots});
    for (std::int64_t s = 0; s < slots; ++s) slot.set(s, -1);
    for (std::int64_t i = 0; i < indices.count(); ++i)
      if (indices[i] >= 0) slot.set(static_cast<std::int64_t>(indices[i]), indices[i]);
    for (std::int64_t i = 0; i < entries.count(); ++i)  // groups of different sizes
      entries.set(i, entries[i] * (i / 128 % 3 == 0 ? 0.3 : 1.5));
    TensorView latent = entries, rope = entries;
    latent.shape[1] = problem.lora;
    rope.shape[1] = problem.rope_dim;
    rope.data = entries.as<float>() + problem.lora;
    mla_cache_store({.latent = latent, .rope = rope, .slots = slot, .cache = result}, test_context());
    return result;
  }

  SparseMlaArgs args(const TensorView& out) const {
    return {.q = q, .cache = cache, .indices = indices, .softmax_scale = softmax_scale, .out = out};
  }
  Tensor run(int threads = 2) const {
    Tensor out = poisoned(problem.out, {problem.tokens, problem.heads, problem.lora});
    sparse_mla(args(out), test_context(threads));
    return out;
  }
};

std::vector<SparseMlaProblem> problems() {
  std::vector<SparseMlaProblem> all;
  for (const DType cache : {DType::u8, DType::bf16, DType::f32}) {
    for (const std::int64_t top_k : {1, 63, 64, 65, 300})
      all.push_back({.tokens = 3, .heads = 8, .top_k = top_k, .cache = cache});
    for (const std::int64_t heads : {1, 2, 3, 5, 16, 31, 128})
      all.push_back({.tokens = 2, .heads = heads, .lora = 128, .top_k = 70, .cache = cache});
    all.push_back({.tokens = 4, .heads = 4, .lora = 256, .rope_dim = 32, .top_k = 2049, .cache = cache});
    all.push_back(
        {.tokens = 3, .heads = 8, .top_k = 100, .q = DType::bf16, .cache = cache, .out = DType::bf16});
    all.push_back({.tokens = 2, .heads = 3, .lora = 128, .rope_dim = 0, .top_k = 9, .cache = cache});
    all.push_back({.tokens = 2, .heads = 3, .lora = 128, .rope_dim = 5, .top_k = 9, .cache = cache});
    all.push_back({.tokens = 0, .heads = 3, .top_k = 9, .cache = cache});
    if (cache != DType::u8)
      all.push_back({.tokens = 2, .heads = 3, .lora = 20, .rope_dim = 7, .top_k = 90, .cache = cache});
  }
  return all;
}

// The largest listed magnitude per output column bounds the sum of weights times magnitudes.
TEST(SparseMla, AgreesWithReference) {
  for (const SparseMlaProblem& p : problems()) {
    SCOPED_TRACE(problem_string(p));
    const Case c(p);
    const Tensor got = c.run();
    const Tensor expected = poisoned(DType::f32, {p.tokens, p.heads, p.lora});
    SparseMlaProblem in_f32 = p;
    in_f32.out = DType::f32;
    sparse_mla_ref(in_f32, c.args(expected), test_context());
    // Rounding of scores (sums of dim products, magnitudes below 4 * 6) and of sums over entries; a bf16
    // softmax weight is off by 2^-8, a bf16 output by 2^-8.
    const double score = 2 * static_cast<double>(c.softmax_scale) * static_cast<double>(c.dim) * 0x1p-24 * 40;
    const double weight =
        score + static_cast<double>(p.top_k + 8) * 0x1p-24 + (p.cache == DType::f32 ? 0 : 0x1p-8);
    Tensor bound(DType::f32, {p.tokens, p.heads, p.lora});
    for (std::int64_t t = 0; t < p.tokens; ++t) {
      for (std::int64_t d = 0; d < p.lora; ++d) {
        double largest = 0;
        for (std::int64_t j = 0; j < p.top_k; ++j) {
          const double slot = c.indices[t * p.top_k + j];
          if (slot >= 0)
            largest =
                std::max(largest, std::abs(c.entries[static_cast<std::int64_t>(slot) * c.dim + d]) + 0.3);
        }
        for (std::int64_t h = 0; h < p.heads; ++h) {
          const std::int64_t at = (t * p.heads + h) * p.lora + d;
          bound.set(at, weight * largest + (p.out == DType::bf16 ? 0x1p-8 * std::abs(expected[at]) : 0));
        }
      }
    }
    expect_within(got, expected, bound);
    // The bound above allows for the worst rounding; on the whole the difference is far smaller.
    const double limit = p.cache != DType::f32 || p.out == DType::bf16 ? 1e-5 : 1e-11;
    EXPECT_LT(p.tokens > 0 ? calc_diff(got, expected) : 0, limit);
  }
}

// A cache of f32: close to the double reference, relative to the largest output of the row.
TEST(SparseMla, F32CacheIsAccurate) {
  for (const std::int64_t top_k : {5, 256, 2048}) {
    const Case c({.tokens = 1, .heads = 8, .top_k = top_k, .cache = DType::f32});
    const Tensor got = c.run();
    const Tensor expected = poisoned(DType::f32, {1, 8, 512});
    sparse_mla_ref(c.problem, c.args(expected), test_context());
    double largest = 0;
    double worst = 0;
    for (std::int64_t i = 0; i < got.count(); ++i) {
      largest = std::max(largest, std::abs(expected[i]));
      worst = std::max(worst, std::abs(got[i] - expected[i]));
    }
    EXPECT_LT(worst, 1e-5 * largest) << top_k;
  }
}

TEST(SparseMla, HandComputed) {
  // Two entries with logits log 1 and log 3: weights 1/4 and 3/4.
  const Tensor cache = tensor_of<double>(DType::f32, {3, 3}, {4, 8, 0, 99, 99, 99, 8, 16, std::log(3.0)});
  const Tensor q = tensor_of<double>(DType::f32, {2, 1, 3}, {0, 0, 1, 0, 0, 1});
  const Tensor indices = tensor_of<int>(DType::i32, {2, 4}, {-1, 0, -1, 2, -1, -1, -1, -1});
  const Tensor out = poisoned(DType::f32, {2, 1, 2});
  sparse_mla({.q = q, .cache = cache, .indices = indices, .softmax_scale = 1, .out = out}, test_context());
  expect_close(out, tensor_of<int>(DType::f32, {2, 1, 2}, {7, 14, 0, 0}), {.relative = 1e-6});
}

TEST(SparseMla, RowsWithoutEntriesGiveZeros) {
  for (const DType cache : {DType::u8, DType::bf16, DType::f32}) {
    const Case c({.tokens = 2, .heads = 5, .lora = 128, .top_k = 40, .cache = cache});
    const Tensor out = c.run();
    for (std::int64_t i = 5 * 128; i < out.count(); ++i) EXPECT_EQ(out[i], 0);
    const Tensor empty = poisoned(DType::f32, {2, 5, 128});
    SparseMlaArgs args = c.args(empty);
    args.indices = TensorView::contiguous(nullptr, DType::i32, {2, 0});
    sparse_mla(args, test_context());
    for (std::int64_t i = 0; i < empty.count(); ++i) EXPECT_EQ(empty[i], 0);
  }
}

// Scores far from zero: nothing overflows, the largest wins.
TEST(SparseMla, ExtremeScores) {
  for (const DType type : {DType::u8, DType::bf16, DType::f32}) {
    for (const double sign : {1.0, -1.0}) {
      Case c({.tokens = 1, .heads = 2, .lora = 128, .rope_dim = 64, .top_k = 200, .cache = type});
      for (std::int64_t i = 0; i < c.q.count(); ++i) c.q.set(i, c.q[i] * sign * 3e4);
      const Tensor got = c.run();
      const Tensor expected = poisoned(DType::f32, {1, 2, 128});
      sparse_mla_ref(c.problem, c.args(expected), test_context());
      expect_close(got, expected, {.relative = 0x1p-8, .absolute = 1e-4});
    }
  }
}

TEST(SparseMla, BytesDoNotDependOnBatchThreadsOrPadding) {
  for (SparseMlaProblem p : problems()) {
    p.tokens = std::min<std::int64_t>(p.tokens, 3);
    SCOPED_TRACE(problem_string(p));
    const Case c(p);
    const Tensor together = c.run(2);
    for (const int threads : {1, 3, 4}) expect_same_bytes(c.run(threads), together);
    const Tensor alone = poisoned(p.out, {p.tokens, p.heads, p.lora});
    for (std::int64_t t = 0; t < p.tokens; ++t) {
      // Without the row's -1s, and with as many more behind.
      std::vector<double> list;
      for (std::int64_t j = 0; j < p.top_k; ++j)
        if (c.indices[t * p.top_k + j] >= 0) list.push_back(c.indices[t * p.top_k + j]);
      list.resize(list.size() + static_cast<std::size_t>(7 * t), -1);
      const Tensor indices = tensor_of<double>(DType::i32, {1, static_cast<std::int64_t>(list.size())}, list);
      SparseMlaArgs args = c.args(alone.view().rows(t, t + 1));
      args.q = c.q.view().rows(t, t + 1);
      args.indices = indices;
      sparse_mla(args, test_context(t % 2 == 0 ? 2 : 1));
    }
    expect_same_bytes(alone, together);
    // A head does not depend on the others.
    Tensor heads = poisoned(p.out, {p.tokens, p.heads, p.lora});
    for (std::int64_t h = 0; h < p.heads; h += 3) {
      SparseMlaArgs args = c.args(heads);
      const auto slice = [&](TensorView& view) {
        view.data = static_cast<std::byte*>(view.data) + h * view.step(1) * size_of(view.dtype);
        view.shape[1] = std::min<std::int64_t>(3, p.heads - h);
      };
      slice(args.q);
      slice(args.out);
      sparse_mla(args, test_context());
    }
    expect_same_bytes(heads, together);
  }
}

// A row's lse, lengths and sink, against the reference and against the same call without them.
TEST(SparseMla, LengthsSinkAndLogSumExp) {
  for (SparseMlaProblem p : problems()) {
    p.tokens = std::min<std::int64_t>(p.tokens, 3);
    SCOPED_TRACE(problem_string(p));
    Case c(p);
    Tensor lengths(DType::i32, {p.tokens});
    Tensor sink = c.random.normal(DType::f32, {p.heads}, 3);
    if (p.heads > 1) sink.set(1, -INFINITY);
    if (p.heads > 2) sink.set(2, INFINITY);
    for (std::int64_t t = 0; t < p.tokens; ++t)
      lengths.set(t, static_cast<double>(t == 0 ? p.top_k : c.random.integer(0, p.top_k)));
    const auto run = [&](auto change, int threads = 2) {
      Tensor out = poisoned(p.out, {p.tokens, p.heads, p.lora});
      SparseMlaArgs args = c.args(out);
      change(args);
      sparse_mla(args, test_context(threads));
      return out;
    };
    // The lists end at their lengths: nothing behind is looked at.
    const auto cut = [&](SparseMlaArgs& args) { args.lengths = lengths; };
    const Tensor plain = run(cut);
    Tensor lists(DType::i32, {p.tokens, p.top_k});
    for (std::int64_t i = 0; i < lists.count(); ++i) {
      const bool inside = i % p.top_k < static_cast<std::int64_t>(lengths[i / p.top_k]);
      if (!inside) c.indices.set(i, -7);
      lists.set(i, inside ? c.indices[i] : -1);
    }
    expect_same_bytes(run(cut), plain);
    expect_same_bytes(run([&](SparseMlaArgs& args) { args.indices = lists; }), plain);
    // The lse changes nothing; neither does a sink of minus infinity.
    const Tensor lse = poisoned(DType::f32, {p.tokens, p.heads + 3});
    TensorView part = lse;
    part.shape[1] = p.heads;
    Tensor nothing(DType::f32, {p.heads});
    for (std::int64_t h = 0; h < p.heads; ++h) nothing.set(h, -INFINITY);
    expect_same_bytes(run([&](SparseMlaArgs& args) { cut(args), args.lse = part, args.sink = nothing; }),
                      plain);
    const auto all = [&](SparseMlaArgs& args) { cut(args), args.lse = part, args.sink = sink; };
    const Tensor got = run(all);
    expect_same_bytes(run(all, 1), got);
    const Tensor expected = poisoned(DType::f32, {p.tokens, p.heads, p.lora});
    const Tensor expected_lse = poisoned(DType::f32, {p.tokens, p.heads});
    SparseMlaArgs args = c.args(expected);
    all(args);
    args.lse = expected_lse;
    SparseMlaProblem in_f32 = p;
    in_f32.out = DType::f32;
    sparse_mla_ref(in_f32, args, test_context());
    for (std::int64_t i = 0; i < p.tokens * p.heads; ++i) {
      const std::int64_t t = i / p.heads, h = i % p.heads;
      const double value = lse[t * (p.heads + 3) + h];
      if (std::isinf(expected_lse[i])) {
        EXPECT_EQ(value, -INFINITY);
      } else {
        EXPECT_NEAR(value, expected_lse[i], 2e-5 + 1e-6 * std::abs(expected_lse[i]));
      }
      for (std::int64_t d = 0; d < p.lora; ++d) {
        const double want = expected[i * p.lora + d];
        const double limit = p.cache == DType::f32 && p.out == DType::f32 ? 2e-5 : 0.03;
        ASSERT_NEAR(got[i * p.lora + d], want, limit);
        if (h == 1) {
          ASSERT_EQ(got[i * p.lora + d], plain[i * p.lora + d]) << "a sink of -inf";
        } else if (h == 2) {
          ASSERT_EQ(got[i * p.lora + d], 0) << "a sink of inf";
        }
      }
    }
    EXPECT_TRUE(p.tokens == 0 || std::isnan(lse[p.heads])) << "beyond the row";
  }
}

// Two halves of a list, joined by their log-sum-exp, are the whole list.
TEST(SparseMla, PartsAreJoinedByTheirLogSumExp) {
  const Case c({.tokens = 1, .heads = 4, .lora = 128, .top_k = 150, .cache = DType::f32});
  const Tensor out[3] = {poisoned(DType::f32, {1, 4, 128}), poisoned(DType::f32, {1, 4, 128}),
                         poisoned(DType::f32, {1, 4, 128})};
  const Tensor lse[3] = {poisoned(DType::f32, {1, 4}), poisoned(DType::f32, {1, 4}),
                         poisoned(DType::f32, {1, 4})};
  for (int part = 0; part < 3; ++part) {
    SparseMlaArgs args = c.args(out[part]);
    args.lse = lse[part];
    if (part > 0) args.indices.shape[1] = part == 1 ? 70 : 80;
    if (part == 2) args.indices.data = args.indices.as<std::int32_t>() + 70;
    sparse_mla(args, test_context());
  }
  for (std::int64_t i = 0; i < out[0].count(); ++i) {
    const double first = std::exp(lse[1][i / 128] - lse[0][i / 128]);
    const double second = std::exp(lse[2][i / 128] - lse[0][i / 128]);
    EXPECT_NEAR(first + second, 1, 1e-5);
    EXPECT_NEAR(first * out[1][i] + second * out[2][i], out[0][i], 1e-5);
  }
}

TEST(SparseMla, RejectsBadArguments) {
  const Case c({.tokens = 2, .heads = 3, .lora = 128, .rope_dim = 8, .top_k = 4});
  const Tensor out = poisoned(DType::f32, {2, 3, 128});
  const auto with = [&](const auto& change) {
    SparseMlaArgs args = c.args(out);
    change(args);
    sparse_mla(args, test_context());
  };
  const Tensor beyond = tensor_of<int>(DType::i32, {2, 2}, {0, -1, 3, 8});
  EXPECT_ERROR(InvalidArgument, "sparse_mla: 'indices' must hold slots from -1 to 7, got 8 at [1,1]",
               with([&](auto& args) { args.indices = beyond; }));
  const Tensor below = tensor_of<int>(DType::i32, {2, 1}, {0, -2});
  EXPECT_ERROR(InvalidArgument, "got -2 at [1,0]", with([&](auto& args) { args.indices = below; }));
  EXPECT_TRUE(std::isnan(out[0]));
  const Tensor narrow = poisoned(DType::u8, {8, 147});
  EXPECT_ERROR(InvalidArgument, "'cache' must have shape [*,148], got [8,147]",
               with([&](auto& args) { args.cache = narrow; }));
  for (const int length : {-1, 5}) {
    const Tensor lengths = tensor_of<int>(DType::i32, {2}, {4, length});
    EXPECT_ERROR(InvalidArgument, "'lengths' must be from 0 to top_k, got " + std::to_string(length),
                 with([&](auto& args) { args.lengths = lengths; }));
  }
  const Tensor many = poisoned(DType::f32, {4});
  EXPECT_ERROR(InvalidArgument, "'sink' must have shape [3], got [4]",
               with([&](auto& args) { args.sink = many; }));
  const Tensor whole = poisoned(DType::f32, {2, 4});
  EXPECT_ERROR(InvalidArgument, "'lse' must have shape [2,3], got [2,4]",
               with([&](auto& args) { args.lse = whole; }));
  const Tensor wide = poisoned(DType::f32, {2, 3, 137});
  EXPECT_ERROR(InvalidArgument, "'q' must be at least as wide as out",
               with([&](auto& args) { args.out = wide; }));
  EXPECT_ERROR(InvalidArgument, "'softmax_scale' must be finite, got inf",
               with([&](auto& args) { args.softmax_scale = INFINITY; }));
}

}  // namespace
}  // namespace fathom
