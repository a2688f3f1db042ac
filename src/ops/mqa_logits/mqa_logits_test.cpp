#include "fathom/ops/mqa_logits.hpp"

#include <cmath>
#include <cstring>
#include <limits>

#include "ops/elements.hpp"
#include "ops/mqa_logits/mqa_logits_impl.hpp"
#include "ops/op_test.hpp"

namespace fathom {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

Tensor magnitudes(const Tensor& x) {
  Tensor out(x.view().dtype, {x.count()});
  for (std::int64_t i = 0; i < x.count(); ++i) out.set(i, std::abs(x[i]));
  return out;
}
TensorView like(const Tensor& data, const Tensor& shape) {
  TensorView view = shape;
  view.data = data.view().data;
  return view;
}

// Random operands of a problem; the windows are random, too.
struct Case {
  MqaLogitsProblem problem;
  Random random{problem.tokens * 1000 + problem.keys + problem.heads};
  Tensor q = random.normal(problem.q, {problem.tokens, problem.heads, problem.head_dim}, 2);
  Tensor k = random.normal(problem.q, {problem.keys, problem.head_dim}, 2);
  Tensor k_scale = random.uniform(DType::f32, {problem.keys}, 0.001, 0.1);
  Tensor weights = random.normal(DType::f32, {problem.tokens, problem.heads});
  Tensor first{DType::i32, {problem.tokens}};
  Tensor last{DType::i32, {problem.tokens}};

  explicit Case(const MqaLogitsProblem& given) : problem(given) {
    for (std::int64_t t = 0; t < problem.tokens; ++t) {
      const std::int64_t a = random.integer(0, problem.keys);
      first.set(t, static_cast<double>(t == 0 ? -3 : std::min(a, problem.keys / 3)));
      last.set(t, static_cast<double>(t == 0   ? problem.keys + 5
                                      : t == 1 ? 0
                                               : random.integer(a, problem.keys)));
    }
  }
  MqaLogitsArgs args(const TensorView& logits) const {
    return {.q = q,
            .k = k,
            .k_scale = problem.q == DType::f8e4m3 ? k_scale.view() : TensorView{},
            .weights = weights,
            .first = first,
            .last = last,
            .logits = logits};
  }
};

const MqaLogitsProblem kProblems[] = {
    {.tokens = 1, .keys = 64, .heads = 64},
    {.tokens = 3, .keys = 1, .heads = 1},
    {.tokens = 19, .keys = 63, .heads = 3},
    {.tokens = 5, .keys = 65, .heads = 128},
    {.tokens = 17, .keys = 257, .heads = 32},
    {.tokens = 2, .keys = 2049, .heads = 5},
    {.tokens = 4, .keys = 100, .heads = 9, .head_dim = 64},
    {.tokens = 4, .keys = 100, .heads = 2, .head_dim = 7},
    {.tokens = 3, .keys = 0, .heads = 2},
    {.tokens = 0, .keys = 70, .heads = 2},
};

TEST(MqaLogits, AgreesWithReference) {
  for (MqaLogitsProblem problem : kProblems) {
    for (const DType type : {DType::f8e4m3, DType::f32}) {
      problem.q = type;
      SCOPED_TRACE(problem_string(problem));
      const Case c(problem);
      const Tensor got = poisoned(DType::f32, {problem.tokens, problem.keys});
      const Tensor expected = poisoned(DType::f32, {problem.tokens, problem.keys});
      mqa_logits(c.args(got), test_context());
      mqa_logits_ref(problem, c.args(expected), test_context());
      // Rounding: one of head_dim + heads + 2 additions each, of what the magnitudes add up to.
      const Tensor q = magnitudes(c.q), k = magnitudes(c.k), weights = magnitudes(c.weights);
      Tensor bound = poisoned(DType::f32, {problem.tokens, problem.keys});
      MqaLogitsArgs magnitude = c.args(bound);
      magnitude.q = like(q, c.q);
      magnitude.k = like(k, c.k);
      magnitude.weights = like(weights, c.weights);
      mqa_logits_ref(problem, magnitude, test_context());
      const auto additions = static_cast<double>(problem.head_dim + problem.heads + 4);
      for (std::int64_t i = 0; i < bound.count(); ++i)
        bound.set(i, bound[i] < 0 ? 0 : bound[i] * additions * 0x1p-24);
      expect_within(got, expected, bound);
    }
  }
}

TEST(MqaLogits, HandComputed) {
  // Two heads; the second key is seen by the second token only.
  const Tensor q = tensor_of<int>(DType::f32, {2, 2, 2}, {1, 2, -1, 0, 1, 0, 0, -1});
  const Tensor k = tensor_of<int>(DType::f32, {2, 2}, {3, 4, -5, 6});
  const Tensor weights = tensor_of<int>(DType::f32, {2, 2}, {10, 100, -10, 100});
  const Tensor logits = poisoned(DType::f32, {2, 2});
  mqa_logits({.q = q,
              .k = k,
              .weights = weights,
              .first = tensor_of<int>(DType::i32, {2}, {0, 0}),
              .last = tensor_of<int>(DType::i32, {2}, {1, 2}),
              .logits = logits},
             test_context());
  expect_close(logits, tensor_of<double>(DType::f32, {2, 2}, {110, -kInf, -30, 0}), {});
}

// The windows of the ragged layout: requests of 10 and 4 keys, the last 3 and 2 of them new.
TEST(MqaLogits, WindowsOfARaggedBatch) {
  Case c({.tokens = 5, .keys = 14, .heads = 2});
  const Tensor first = tensor_of<int>(DType::i32, {5}, {0, 0, 0, 10, 10});
  const Tensor last = tensor_of<int>(DType::i32, {5}, {8, 9, 10, 13, 14});
  const Tensor logits = poisoned(DType::f32, {5, 14});
  MqaLogitsArgs args = c.args(logits);
  args.first = first;
  args.last = last;
  mqa_logits(args, test_context());
  for (std::int64_t t = 0; t < 5; ++t) {
    for (std::int64_t j = 0; j < 14; ++j) {
      const bool seen = static_cast<double>(j) >= first[t] && static_cast<double>(j) < last[t];
      EXPECT_EQ(std::isfinite(logits[t * 14 + j]), seen);
      EXPECT_TRUE(seen || logits[t * 14 + j] == -kInf);
    }
  }
}

TEST(MqaLogits, RowsDoNotDependOnOneAnother) {
  for (const DType type : {DType::f8e4m3, DType::f32}) {
    const Case c({.tokens = 37, .keys = 300, .heads = 6, .q = type});
    const Tensor together = poisoned(DType::f32, {37, 300});
    const Tensor alone = poisoned(DType::f32, {37, 300});
    const Tensor one_thread = poisoned(DType::f32, {37, 300});
    mqa_logits(c.args(together), test_context(2));
    mqa_logits(c.args(one_thread), test_context(1));
    expect_same_bytes(one_thread, together);
    for (std::int64_t t = 0; t < 37; ++t) {
      MqaLogitsArgs args = c.args(alone.view().rows(t, t + 1));
      args.q = c.q.view().rows(t, t + 1);
      args.weights = c.weights.view().rows(t, t + 1);
      args.first = c.first.view().rows(t, t + 1);
      args.last = c.last.view().rows(t, t + 1);
      mqa_logits(args, test_context(1));
    }
    expect_same_bytes(alone, together);
  }
}

// A score does not depend on where its key stands, and keys that nobody sees are not read.
TEST(MqaLogits, KeysDoNotDependOnOneAnother) {
  for (const DType type : {DType::f8e4m3, DType::f32}) {
    Case c({.tokens = 3, .keys = 200, .heads = 4, .q = type});
    for (std::int64_t t = 0; t < 3; ++t) {
      c.first.set(t, 0);
      c.last.set(t, 150);
    }
    const Tensor plain = poisoned(DType::f32, {3, 200});
    mqa_logits(c.args(plain), test_context());
    const Tensor k = poisoned(type, {237, 128});  // NaN where nobody looks
    const Tensor k_scale = poisoned(DType::f32, {237});
    std::memcpy(k.as<std::byte>() + 37 * 128 * size_of(type), c.k.view().data,
                static_cast<std::size_t>(150 * 128 * size_of(type)));
    std::memcpy(k_scale.as<float>() + 37, c.k_scale.view().data, 600);
    const Tensor shifted = poisoned(DType::f32, {3, 237});
    const Tensor first = tensor_of<int>(DType::i32, {3}, {37, 37, 37});
    const Tensor last = tensor_of<int>(DType::i32, {3}, {187, 187, 187});
    MqaLogitsArgs args = c.args(shifted);
    args.k = k;
    if (type == DType::f8e4m3) args.k_scale = k_scale;
    args.first = first;
    args.last = last;
    mqa_logits(args, test_context());
    TensorView a = plain, b = shifted;
    a.shape[1] = b.shape[1] = 150;
    b.data = shifted.as<float>() + 37;
    expect_same_bytes(b, a);
    for (std::int64_t i = 0; i < shifted.count(); ++i) EXPECT_FALSE(std::isnan(shifted[i]));
  }
}

TEST(MqaLogits, StridedOperands) {
  const Case c({.tokens = 6, .keys = 70, .heads = 8});
  const Tensor plain = poisoned(DType::f32, {6, 70});
  mqa_logits(c.args(plain), test_context());
  const Tensor q = poisoned(DType::f8e4m3, {6, 8, 200});
  for (std::int64_t r = 0; r < 48; ++r)
    std::memcpy(q.as<std::byte>() + r * 200, c.q.as<std::byte>() + r * 128, 128);
  const Tensor k = poisoned(DType::f8e4m3, {70, 131});
  for (std::int64_t r = 0; r < 70; ++r)
    std::memcpy(k.as<std::byte>() + r * 131, c.k.as<std::byte>() + r * 128, 128);
  const Tensor weights = poisoned(DType::f32, {6, 11});
  for (std::int64_t r = 0; r < 6; ++r)
    std::memcpy(weights.as<float>() + r * 11, c.weights.as<float>() + r * 8, 32);
  const Tensor wide = poisoned(DType::f32, {6, 80});
  TensorView logits = wide;
  logits.shape[1] = 70;
  MqaLogitsArgs args = c.args(logits);
  args.q = q;
  args.q.shape[2] = 128;
  args.k = k;
  args.k.shape[1] = 128;
  args.weights = weights;
  args.weights.shape[1] = 8;
  mqa_logits(args, test_context());
  expect_same_bytes(logits, plain);
  for (std::int64_t t = 0; t < 6; ++t) EXPECT_TRUE(std::isnan(wide[t * 80 + 70]));
}

TEST(MqaLogits, RejectsBadArguments) {
  const Case c({.tokens = 2, .keys = 8, .heads = 4});
  const Tensor logits = poisoned(DType::f32, {2, 8});
  const auto with = [&](const auto& change) {
    MqaLogitsArgs args = c.args(logits);
    change(args);
    mqa_logits(args, test_context());
  };
  const Tensor other = poisoned(DType::f32, {2, 5});
  EXPECT_ERROR(InvalidArgument, "mqa_logits: 'weights' must have shape [2,4], got [2,5]",
               with([&](auto& args) { args.weights = other; }));
  EXPECT_ERROR(InvalidArgument, "'k' must be f8e4m3, got f32", with([&](auto& args) { args.k = other; }));
  EXPECT_ERROR(InvalidArgument, "'k_scale' must have shape [8]",
               with([&](auto& args) { args.k_scale = {}; }));
  EXPECT_ERROR(InvalidArgument, "'logits' must have shape [2,8], got [2,5]",
               with([&](auto& args) { args.logits = other; }));
}

}  // namespace
}  // namespace fathom
