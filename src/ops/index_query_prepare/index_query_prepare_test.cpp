#include "fathom/ops/index_query_prepare.hpp"

#include <cmath>
#include <limits>

#include "fathom/ops/copy_rows.hpp"
#include "fathom/ops/hadamard.hpp"
#include "fathom/ops/head_gate.hpp"
#include "fathom/ops/quantize_groups.hpp"
#include "ops/prepare_test.hpp"

namespace fathom {
namespace {

/// The ops that index_query_prepare stands for, one after another; gate as head_gate multiplies.
void chain(const IndexQueryPrepareArgs& args, const Context& context) {
  const std::int64_t tokens = args.q.size(0), heads = args.q.size(1), dim = args.q.size(2);
  const Tensor q(DType::f32, {tokens, heads, dim});
  copy_rows({args.q, {}, q}, context);
  rope({q, args.positions, args.cos_sin, args.offset, args.style}, context);
  const TensorView flat = TensorView::contiguous(q.view().data, DType::f32, {tokens * heads, dim});
  if (args.hadamard) hadamard({flat, flat}, context);
  if (args.out.dtype == DType::f32) return copy_rows({q, {}, args.out}, context);
  const Tensor codes(DType::f8e4m3, {tokens * heads, dim});
  const Tensor scale(DType::f32, {tokens * heads, 1});
  quantize_groups({.x = flat,
                   .q = codes,
                   .scale = scale,
                   .rule = QuantRule::indexer,
                   .scale_format = args.ue8m0 ? ScaleFormat::ue8m0 : ScaleFormat::f32},
                  context);
  const auto factor =
      static_cast<float>(static_cast<double>(args.softmax_scale) / std::sqrt(static_cast<double>(heads)));
  for (std::int64_t i = 0; i < tokens * heads; ++i) {
    const std::int64_t t = i / heads, h = i % heads;
    std::copy_n(codes.as<std::uint8_t>() + i * dim, dim,
                args.out.as<std::uint8_t>() + t * args.out.step(0) + h * args.out.step(1));
    if (args.scale.given()) args.scale.as<float>()[t * args.scale.step(0) + h] = scale.as<float>()[i];
    if (args.gate.given()) args.gate.as<float>()[t * args.gate.step(0) + h] *= factor * scale.as<float>()[i];
  }
}

TEST(IndexQueryPrepare, HasTheBytesOfTheChain) {
  for (const PrepareCase& c : prepare_cases()) {
    for (const std::int64_t heads : {1, 5, 12}) {
      for (const bool ue8m0 : {false, true}) {
        const bool quantised = c.dim <= 128 && (ue8m0 || heads != 5);
        if (ue8m0 && !quantised) continue;
        SCOPED_TRACE(testing::Message() << c << " heads " << heads << " ue8m0 " << ue8m0);
        Random random(c.tokens + c.dim + heads);
        const Tensor q = random.normal(c.x, {c.tokens, heads * (c.dim + 2) + 3}, 5);
        const Tensor positions = random_positions(random, c);
        const Tensor table = random.normal(DType::f32, {kPrepareTable, c.rope_dim});
        const DType dtype = quantised ? DType::f8e4m3 : DType::f32;
        const std::int64_t width = heads * (c.dim + 1);
        const Tensor got = poisoned(dtype, {c.tokens, width});
        const Tensor expected = poisoned(dtype, {c.tokens, width});
        const Tensor scale = poisoned(DType::f32, {c.tokens, heads + 1});
        const Tensor expected_scale = poisoned(DType::f32, {c.tokens, heads + 1});
        const Tensor gate = Random(heads).normal(DType::f32, {c.tokens, heads + 2});
        const Tensor expected_gate = Random(heads).normal(DType::f32, {c.tokens, heads + 2});
        IndexQueryPrepareArgs args{.q = with_heads(q, heads, c.dim, c.dim + 2),
                                   .positions = positions,
                                   .cos_sin = table,
                                   .out = with_heads(got, heads, c.dim, c.dim + 1),
                                   .offset = c.offset,
                                   .style = c.style,
                                   .hadamard = c.hadamard,
                                   .ue8m0 = ue8m0,
                                   .softmax_scale = 0.09f};
        if (quantised) {
          if (heads != 1) args.scale = first_columns(scale, heads);
          if (heads != 12) args.gate = first_columns(gate, heads);
          if (!args.scale.given() && !args.gate.given()) args.scale = first_columns(scale, heads);
        }
        index_query_prepare(args, test_context());
        args.out = with_heads(expected, heads, c.dim, c.dim + 1);
        if (args.scale.given()) args.scale = first_columns(expected_scale, heads);
        if (args.gate.given()) args.gate = first_columns(expected_gate, heads);
        chain(args, test_context());
        expect_same_bytes(got, expected);
        expect_same_bytes(scale, expected_scale);
        expect_same_bytes(gate, expected_gate);
      }
    }
  }
}

// The reference rotates in double: scales agree to its rounding, and so do the values.
TEST(IndexQueryPrepare, AgreesWithReference) {
  for (const PrepareCase& c : prepare_cases()) {
    if (c.dim > 128) continue;
    Random random(c.dim);
    const Tensor q = random.normal(c.x, {c.tokens, 3 * c.dim});
    const Tensor positions = random_positions(random, c);
    const Tensor table = random.uniform(DType::f32, {kPrepareTable, c.rope_dim}, -1, 1);
    const auto values = [&](const Context& context) {
      const Tensor codes = poisoned(DType::f8e4m3, {c.tokens, 3 * c.dim});
      const Tensor scale = poisoned(DType::f32, {c.tokens, 3});
      index_query_prepare({.q = with_heads(q, 3, c.dim, c.dim),
                           .positions = positions,
                           .cos_sin = table,
                           .out = with_heads(codes, 3, c.dim, c.dim),
                           .scale = scale,
                           .offset = c.offset,
                           .style = c.style,
                           .hadamard = c.hadamard},
                          context);
      Tensor result(DType::f32, {c.tokens * 3, c.dim});
      for (std::int64_t i = 0; i < result.count(); ++i) result.set(i, codes[i] * scale[i / c.dim]);
      return result;
    };
    const Tensor got = values(test_context());
    const Tensor expected = values(forced_context("ref:any"));
    // A value near the middle of two codes may get the other one: 2^-3 of it.
    expect_close(got, expected, {.relative = 0.126, .absolute = 1e-4});
  }
}

// The product first and the queries after it, or the queries first and the product with their scales.
TEST(IndexQueryPrepare, GateHasTheBytesOfHeadGate) {
  constexpr std::int64_t kTokens = 7, kHeads = 48, kHidden = 256;
  Random random(1);
  const Tensor q = random.normal(DType::f32, {kTokens, kHeads, 128});
  const Tensor positions = tensor_of<int>(DType::i32, {kTokens}, {5, 0, 3, 3, 1, 9, 2});
  const Tensor table = random.normal(DType::f32, {10, 64});
  const Tensor x = random.normal(DType::bf16, {kTokens, kHidden});
  const Tensor w = random.normal(DType::bf16, {kHeads, kHidden});
  const Tensor codes = poisoned(DType::f8e4m3, {kTokens, kHeads, 128});
  const Tensor scale = poisoned(DType::f32, {kTokens, kHeads});
  const Tensor expected = poisoned(DType::f32, {kTokens, kHeads});
  const Tensor gate = poisoned(DType::f32, {kTokens, kHeads});
  IndexQueryPrepareArgs args{.q = q,
                             .positions = positions,
                             .cos_sin = table,
                             .out = codes,
                             .scale = scale,
                             .softmax_scale = 0.088f};
  index_query_prepare(args, test_context());
  head_gate({.x = x, .w = w, .q_scale = scale, .out = expected, .softmax_scale = 0.088f}, test_context());
  // sqrt(48) is no float: the sums as they are come from as many heads as a square has.
  for (std::int64_t h = 0; h < kHeads; h += 16) {
    Tensor part = poisoned(DType::f32, {kTokens, 16});
    head_gate({.x = x, .w = w.view().rows(h, h + 16), .out = part, .softmax_scale = 4}, test_context());
    for (std::int64_t i = 0; i < part.count(); ++i) {
      gate.as<float>()[i / 16 * kHeads + h + i % 16] = part.as<float>()[i];
    }
  }
  args.gate = gate;
  index_query_prepare(args, test_context());
  expect_same_bytes(gate, expected);
}

TEST(IndexQueryPrepare, QueriesInPlaceAndTokensAlone) {
  constexpr std::int64_t kTokens = 21;
  Random random(3);
  const Tensor q = random.normal(DType::f32, {kTokens, 4, 128});
  const Tensor together = poisoned(DType::f32, {kTokens, 4, 128});
  const Tensor table = random.normal(DType::f32, {kTokens, 64});
  Tensor positions(DType::i32, {kTokens});
  for (std::int64_t t = 0; t < kTokens; ++t) positions.set(t, static_cast<double>(kTokens - 1 - t));
  index_query_prepare({.q = q, .positions = positions, .cos_sin = table, .out = together}, test_context(2));
  for (std::int64_t t = 0; t < kTokens; ++t) {
    const TensorView row = q.view().rows(t, t + 1);
    index_query_prepare(
        {.q = row, .positions = positions.view().rows(t, t + 1), .cos_sin = table, .out = row},
        test_context(1));
  }
  expect_same_bytes(q, together);
}

TEST(IndexQueryPrepare, RejectsBadArguments) {
  const Tensor q = poisoned(DType::f32, {2, 4, 128});
  const Tensor table = poisoned(DType::f32, {16, 64});
  const Tensor zeros = tensor_of<int>(DType::i32, {2}, {0, 0});
  const Tensor codes = poisoned(DType::f8e4m3, {2, 4, 128});
  const Tensor scale = poisoned(DType::f32, {2, 4});
  const auto fails = [&](const char* message, const auto& change) {
    IndexQueryPrepareArgs args{.q = q, .positions = zeros, .cos_sin = table, .out = codes, .scale = scale};
    change(args);
    EXPECT_ERROR(InvalidArgument, message, index_query_prepare(args, test_context()));
  };
  fails("index_query_prepare: 'scale' must be given with an f8e4m3 out, or gate, got neither",
        [](auto& a) { a.scale = {}; });
  const Tensor values = poisoned(DType::f32, {2, 4, 128});
  fails("'scale' must not be given with an f32 out", [&](auto& a) { a.out = values; });
  fails("'ue8m0' must be false with an f32 out", [&](auto& a) {
    a.out = values;
    a.ue8m0 = true;
  });
  fails("'softmax_scale' must be finite",
        [](auto& a) { a.softmax_scale = std::numeric_limits<float>::infinity(); });
  const Tensor far = tensor_of<int>(DType::i32, {2}, {0, 16});
  fails("'positions' must be in [0,16), got 16 at token 1", [&](auto& a) { a.positions = far; });
  const Tensor narrow = poisoned(DType::f32, {2, 3});
  fails("'gate' must have shape [2,4], got [2,3]", [&](auto& a) { a.gate = narrow; });
  const Tensor wide = poisoned(DType::f32, {2, 4, 256});
  fails("'dim' must be at most 128 with an f8e4m3 out, got 256", [&](auto& a) { a.q = wide; });
}

}  // namespace
}  // namespace fathom
