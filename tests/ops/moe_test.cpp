// A whole MoE layer of ops against plain loops: every layout, f32 and FP8, any number of tokens.
#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "fathom/ops/m_grouped_fp8_gemm_nt.hpp"
#include "fathom/ops/m_grouped_linear_f32.hpp"
#include "fathom/ops/moe_combine.hpp"
#include "fathom/ops/moe_permute.hpp"
#include "fathom/ops/moe_route.hpp"
#include "fathom/ops/quantize_groups.hpp"
#include "fathom/ops/silu_mul.hpp"
#include "fathom/ops/silu_mul_quant.hpp"
#include "ops/op_test.hpp"

namespace fathom {
namespace {

constexpr std::int64_t kExperts = 8;
constexpr std::int64_t kTopK = 3;
constexpr std::int64_t kHidden = 256;
constexpr std::int64_t kInner = 128;
constexpr std::int64_t kScales = kHidden / 128;

enum class Layout { offsets, padded, masked };

// FP8 weights of all experts, gate above up, and what a token goes to.
struct Layer {
  explicit Layer(std::int64_t tokens_, std::int64_t seed)
      : tokens(tokens_),
        random(seed),
        x(random.normal(DType::f32, {tokens, kHidden})),
        gate_up(random.normal(DType::f8e4m3, {kExperts, 2 * kInner, kHidden})),
        gate_up_scale(random.uniform(DType::f32, {kExperts, 2, kScales}, 0.02, 0.06)),
        down(random.normal(DType::f8e4m3, {kExperts, kHidden, kInner})),
        down_scale(random.uniform(DType::f32, {kExperts, kScales, 1}, 0.05, 0.1)),
        ids(poisoned(DType::i32, {tokens, kTopK})),
        weights(poisoned(DType::f32, {tokens, kTopK})) {}

  void route() {
    const Tensor logits = random.normal(DType::f32, {tokens, kExperts});
    moe_route({.logits = logits,
               .n_group = 4,
               .topk_group = 2,
               .routed_scaling = 2.5f,
               .ids = ids,
               .weights = weights},
              test_context());
  }

  std::int64_t tokens;
  Random random;
  Tensor x, gate_up, gate_up_scale, down, down_scale;
  Tensor ids, weights;
};

// An expert's matrix [rows, columns] with its scales multiplied in.
std::vector<double> dequantised(const Tensor& w, const Tensor& scale, std::int64_t e, std::int64_t rows,
                                std::int64_t columns) {
  std::vector<double> result;
  const std::int64_t row_blocks = (rows + 127) / 128;
  const std::int64_t column_blocks = (columns + 127) / 128;
  for (std::int64_t j = 0; j < rows; ++j) {
    for (std::int64_t i = 0; i < columns; ++i) {
      result.push_back(w[(e * rows + j) * columns + i] *
                       scale[(e * row_blocks + j / 128) * column_blocks + i / 128]);
    }
  }
  return result;
}

std::vector<double> times(const std::vector<double>& matrix, const std::vector<double>& x) {
  std::vector<double> y(matrix.size() / x.size());
  for (std::size_t j = 0; j < y.size(); ++j) {
    for (std::size_t i = 0; i < x.size(); ++i) y[j] += matrix[j * x.size() + i] * x[i];
  }
  return y;
}

// out[t] = sum of w * down(silu(gate x) * up x), one expert and one token after the other.
Tensor naive(const Layer& layer) {
  std::vector<double> out(static_cast<std::size_t>(layer.tokens * kHidden));
  for (std::int64_t e = 0; e < kExperts; ++e) {
    const auto gate_up = dequantised(layer.gate_up, layer.gate_up_scale, e, 2 * kInner, kHidden);
    const auto down = dequantised(layer.down, layer.down_scale, e, kHidden, kInner);
    for (std::int64_t slot = 0; slot < layer.ids.count(); ++slot) {
      if (layer.ids[slot] != static_cast<double>(e)) continue;
      const std::int64_t t = slot / kTopK;
      std::vector<double> x;
      for (std::int64_t i = 0; i < kHidden; ++i) x.push_back(layer.x[t * kHidden + i]);
      std::vector<double> inner = times(gate_up, x);
      for (std::size_t j = 0; j < kInner; ++j) inner[j] *= inner[kInner + j] / (1 + std::exp(-inner[j]));
      inner.resize(kInner);
      const std::vector<double> y = times(down, inner);
      for (std::size_t d = 0; d < kHidden; ++d) {
        out[static_cast<std::size_t>(t) * kHidden + d] += layer.weights[slot] * y[d];
      }
    }
  }
  return tensor_of<double>(DType::f32, {layer.tokens, kHidden}, out);
}

// The same by the ops. All scratch memory holds NaN before.
struct LayerRun {
  LayerRun(const Layer& layer_, Layout layout, const Context& context_)
      : layer(layer_),
        context(context_),
        masked(layout == Layout::masked),
        alignment(layout == Layout::padded ? 128 : 1),
        rows(masked ? moe_masked_rows(layer.tokens) * (kTopK + 1)  // a test may name an expert in every slot
                    : moe_permute_rows(layer.tokens, kTopK, kExperts, alignment)),
        slot_to_row(poisoned(DType::i32, {layer.tokens, kTopK})),
        index(poisoned(DType::i32, {masked          ? kExperts
                                    : alignment > 1 ? rows
                                                    : kExperts + 1})) {}

  TensorView of_rows(const Tensor& t) const {
    return masked ? TensorView::contiguous(t.view().data, t.view().dtype, {kExperts, rows, t.view().size(1)})
                  : t.view();
  }
  std::int64_t all_rows() const { return masked ? kExperts * rows : rows; }
  Tensor scratch(DType dtype, std::int64_t width) const { return poisoned(dtype, {all_rows(), width}); }

  GroupedRows permute(const TensorView& x, const TensorView& scale, const TensorView& out,
                      const TensorView& out_scale) {
    MoePermuteArgs args{.ids = layer.ids,
                        .x = x,
                        .x_scale = scale,
                        .groups = kExperts,
                        .alignment = alignment,
                        .out = out,
                        .out_scale = out_scale,
                        .slot_to_row = slot_to_row};
    GroupedRows result;
    (masked ? args.masked_m : alignment > 1 ? args.row_to_group : args.offsets) = index;
    (masked ? result.masked_m : alignment > 1 ? result.row_to_group : result.offsets) = index;
    moe_permute(args, context);
    return result;
  }

  Tensor combine(const Tensor& y) const {
    Tensor out = poisoned(DType::f32, {layer.tokens, kHidden});
    moe_combine({.y = y, .slot_to_row = slot_to_row, .weights = layer.weights, .out = out}, context);
    return out;
  }

  Tensor f32() {
    const Tensor x = scratch(DType::f32, kHidden);
    const Tensor inner = scratch(DType::f32, 2 * kInner);
    const Tensor active = scratch(DType::f32, kInner);
    const Tensor y = scratch(DType::f32, kHidden);
    const GroupedRows where = permute(layer.x, {}, of_rows(x), {});
    const auto linear = [&](const Tensor& a, const Tensor& b, const Tensor& b_scale, const Tensor& out) {
      const auto weights = split_groups(b);
      const auto scales = split_groups(b_scale);
      m_grouped_linear_f32(
          {.a = of_rows(a), .b = weights, .b_scale = scales, .rows = where, .out = of_rows(out)}, context);
    };
    linear(x, layer.gate_up, layer.gate_up_scale, inner);
    silu_mul({.gate_up = inner, .out = active}, context);
    linear(active, layer.down, layer.down_scale, y);
    return combine(y);
  }

  Tensor fp8() {
    const Tensor q = poisoned(DType::f8e4m3, {layer.tokens, kHidden});
    const Tensor q_scale = poisoned(DType::f32, {layer.tokens, kScales});
    const Tensor x = scratch(DType::f8e4m3, kHidden);
    const Tensor x_scale = scratch(DType::f32, kScales);
    const Tensor inner = scratch(DType::f32, 2 * kInner);
    const Tensor active = scratch(DType::f8e4m3, kInner);
    const Tensor active_scale = scratch(DType::f32, 1);
    const Tensor y = scratch(DType::f32, kHidden);
    quantize_groups({.x = layer.x, .q = q, .scale = q_scale}, context);
    const GroupedRows where = permute(q, q_scale, of_rows(x), of_rows(x_scale));
    const auto gemm = [&](const Tensor& a, const Tensor& a_scale, const Tensor& b, const Tensor& b_scale,
                          const Tensor& out) {
      const auto weights = split_groups(b);
      const auto scales = split_groups(b_scale);
      m_grouped_fp8_gemm_nt({.a = of_rows(a),
                             .a_scale = of_rows(a_scale),
                             .b = weights,
                             .b_scale = scales,
                             .rows = where,
                             .out = of_rows(out)},
                            context);
    };
    gemm(x, x_scale, layer.gate_up, layer.gate_up_scale, inner);
    silu_mul_quant({.gate_up = of_rows(inner),
                    .q = of_rows(active),
                    .scale = of_rows(active_scale),
                    .masked_m = where.masked_m},
                   context);
    gemm(active, active_scale, layer.down, layer.down_scale, y);
    return combine(y);
  }

  const Layer& layer;
  const Context& context;
  bool masked;
  std::int64_t alignment;
  std::int64_t rows;
  Tensor slot_to_row;
  Tensor index;
};

constexpr Layout kLayouts[] = {Layout::offsets, Layout::padded, Layout::masked};

void check(const Layer& layer) {
  const Tensor expected = naive(layer);
  std::vector<Tensor> same;  // the layout must not show in the result
  for (const Layout layout : kLayouts) {
    SCOPED_TRACE(static_cast<int>(layout));
    const Tensor f32 = LayerRun(layer, layout, test_context()).f32();
    if (layer.tokens > 0) expect_close(f32, expected, {.relative = 1e-5, .absolute = 1e-4});
    Tensor fp8 = LayerRun(layer, layout, test_context()).fp8();
    // Each activation is off by up to 1/16; NaN would fail, too.
    EXPECT_LT(calc_diff(fp8, expected), 3e-3);
    if (!same.empty()) expect_same_bytes(fp8, same[0]);
    same.push_back(std::move(fp8));
  }
}

TEST(MoeLayer, AgreesWithPlainLoops) {
  for (const std::int64_t tokens : {0, 1, 255, 256, 257}) {
    SCOPED_TRACE(tokens);
    Layer layer(tokens, tokens + 1);
    layer.route();
    check(layer);
  }
}

TEST(MoeLayer, SomeExpertsAreElsewhereAndSomeEmpty) {
  Layer layer(70, 3);
  layer.route();
  for (std::int64_t i = 0; i < layer.ids.count(); ++i) {
    if (layer.ids[i] == 2 || layer.ids[i] >= 6) layer.ids.set(i, -1);
  }
  for (std::int64_t s = 0; s < kTopK; ++s)
    layer.ids.set(5 * kTopK + s, -1);  // a token without any expert here
  check(layer);
}

TEST(MoeLayer, AllTokensGoToOneExpert) {
  Layer layer(130, 4);
  layer.route();
  for (std::int64_t i = 0; i < layer.ids.count(); ++i) layer.ids.set(i, i % kTopK == 1 ? -1 : 5);
  check(layer);
}

TEST(MoeLayer, TokensDoNotDependOnOneAnother) {
  Layer layer(40, 5);
  layer.route();
  const Tensor together = LayerRun(layer, Layout::offsets, test_context(2)).fp8();
  for (const std::int64_t t : {0, 17, 39}) {
    Layer one(1, 5);
    for (std::int64_t i = 0; i < kHidden; ++i) one.x.set(i, layer.x[t * kHidden + i]);
    for (std::int64_t s = 0; s < kTopK; ++s) {
      one.ids.set(s, layer.ids[t * kTopK + s]);
      one.weights.set(s, layer.weights[t * kTopK + s]);
    }
    for (const auto& [from, to] : {std::pair(&layer.gate_up, &one.gate_up),
                                   {&layer.down, &one.down},
                                   {&layer.gate_up_scale, &one.gate_up_scale},
                                   {&layer.down_scale, &one.down_scale}}) {
      std::copy_n(from->as<std::byte>(), from->count() * size_of(from->view().dtype), to->as<std::byte>());
    }
    const Tensor alone = LayerRun(one, Layout::masked, test_context(1)).fp8();
    expect_same_bytes(alone, together.view().rows(t, t + 1));
  }
}

}  // namespace
}  // namespace fathom
