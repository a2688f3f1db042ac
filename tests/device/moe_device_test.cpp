// The ops of the expert path on CUDA tensors against the CPU's on host copies: every implementation.
#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "fathom/ops/quantize_groups.hpp"
#include "on_device.hpp"

namespace fathom {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr ScaleLayout kLayouts[] = {ScaleLayout::row_major, ScaleLayout::column_major,
                                    ScaleLayout::aligned_column_major, ScaleLayout::packed_ue8m0};
constexpr QuantRule kRules[] = {QuantRule::per_token_group, QuantRule::silu_mul, QuantRule::indexer,
                                QuantRule::per_token_cast, QuantRule::kv_cache};

std::int64_t seed() { return std::random_device{}(); }

// Buffers of the host and of the device, padding included.
void expect_same_buffers(const OnDevice& got, const Strided& expected) {
  expect_same_bytes(got.download().buffer, expected.buffer);
}

// `matrices` poisoned scales of [rows, groups] in a layout with more room than it needs, in one flat buffer.
Strided scales(ScaleLayout layout, std::int64_t matrices, std::int64_t rows, std::int64_t groups,
               bool stacked) {
  Strided result{poisoned(DType::i32, {matrices * scale_bytes(layout, rows + 3, groups + 1) / 4 + 1}), {}};
  TensorView view = scale_view(result.buffer.view().data, layout, matrices, rows, groups);
  const TensorView wide = scale_view(nullptr, layout, matrices, rows + 3, groups + 1);
  view.stride = wide.stride;
  if (!stacked) {
    view.rank = 2;
    view.shape = {view.size(1), view.size(2)};
    view.stride = {view.step(1), view.step(2)};
  }
  result.view = view;
  return result;
}

// Values of all sizes, among them whole groups of zeros, of tiny ones and of ones that are no numbers.
Tensor wild(Random& random, DType dtype, std::int64_t rows, std::int64_t width) {
  Tensor x = random.normal(dtype, {rows, width});
  for (std::int64_t i = 0; i < x.count(); i += 1 + random.integer(0, 400)) {
    const std::int64_t end = std::min(x.count(), i + random.integer(1, 200));
    const double factor = std::pow(2.0, static_cast<double>(random.integer(-150, 120)));
    const std::int64_t kind = random.integer(0, 11);
    for (; i < end; ++i) x.set(i, kind == 0 ? 0 : kind == 1 ? -0.0 : x[i] * factor);
    if (kind == 2) x.set(end - 1, static_cast<double>(random.integer(0, 1) ? kInfinity : -kInfinity));
    if (kind == 3) x.set(end - 1, static_cast<double>(kNan));
  }
  return x;
}

void check_quantize(const QuantizeGroupsProblem& p, const std::string& implementation, std::int64_t padding,
                    std::int64_t shift) {
  SCOPED_TRACE(problem_string(p) + " " + implementation);
  Random random(seed());
  const Strided x = strided(wild(random, p.x, p.tokens, p.k), padding);
  const Strided q = strided(poisoned(DType::f8e4m3, {p.tokens, p.k}), padding);
  const Strided scale = scales(p.scale_layout, 1, p.tokens, scale_groups(p.k), false);
  const OnDevice device_x(x, shift);
  const OnDevice device_q(q, shift);
  const OnDevice device_scale(scale);
  const auto run = [&](const TensorView& from, const TensorView& to, const TensorView& s,
                       const Context& context) {
    quantize_groups({.x = from,
                     .q = to,
                     .scale = s,
                     .rule = p.rule,
                     .scale_format = p.scale_format,
                     .scale_layout = p.scale_layout},
                    context);
  };
  run(device_x, device_q, device_scale, device_context(implementation));
  run(x.view, q.view, scale.view, test_context());
  expect_same_buffers(device_q, q);
  expect_same_buffers(device_scale, scale);
}

TEST(QuantizeGroupsOnDevice, EveryRuleFormatAndLayoutGivesTheBytesOfTheHost) {
  for (const std::string& implementation : cuda_implementations("quantize_groups")) {
    Random random(seed());
    for (int round = 0; round < 300 && !HasFailure(); ++round) {
      const ScaleLayout layout = kLayouts[random.integer(0, 3)];
      const bool whole = random.integer(0, 1) == 1;
      check_quantize({.tokens = random.integer(0, 40),
                      .k = whole ? 16 * random.integer(1, 80) : random.integer(1, 1200),
                      .x = random.integer(0, 1) == 1 ? DType::bf16 : DType::f32,
                      .rule = kRules[random.integer(0, 4)],
                      .scale_format = layout == ScaleLayout::packed_ue8m0 || random.integer(0, 1) == 1
                                          ? ScaleFormat::ue8m0
                                          : ScaleFormat::f32,
                      .scale_layout = layout},
                     implementation, random.integer(0, 1) * (whole ? 16 : 3),
                     random.integer(0, 1) * (random.integer(0, 1) == 1 ? 16 : 4));
    }
  }
}

// All values of bf16, and all ties between neighbouring codes with the floats beside them, at scale 1.
TEST(QuantizeGroupsOnDevice, EveryCode) {
  Tensor all(DType::bf16, {512, 128});
  for (int i = 0; i < 65536; ++i) all.as<std::uint16_t>()[i] = static_cast<std::uint16_t>(i);
  Tensor ties(DType::f32, {6, 128});
  for (std::uint8_t code = 0; code < 126; ++code) {
    const float tie = (f8e4m3_to_float(code) + f8e4m3_to_float(static_cast<std::uint8_t>(code + 1))) / 2;
    for (int i = 0; i < 6; ++i) {
      const float near = i / 2 == 0 ? tie : std::nextafter(tie, i / 2 == 1 ? 0.0f : 1e3f);
      ties.as<float>()[i * 128 + code] = i % 2 == 0 ? near : -near;
    }
  }
  for (int i = 0; i < 6; ++i) ties.as<float>()[i * 128 + 126] = 448;
  for (const std::string& implementation : cuda_implementations("quantize_groups")) {
    for (const Tensor* x : {&all, &ties}) {
      for (const QuantRule rule : kRules) {
        const std::int64_t rows = x->view().size(0);
        const Tensor q = poisoned(DType::f8e4m3, {rows, 128});
        const Tensor scale = poisoned(DType::f32, {rows, 1});
        const OnDevice device_x(*x);
        const OnDevice device_q(q);
        const OnDevice device_scale(scale);
        quantize_groups({.x = device_x, .q = device_q, .scale = device_scale, .rule = rule},
                        device_context(implementation));
        quantize_groups({.x = *x, .q = q, .scale = scale, .rule = rule}, test_context());
        expect_same_bytes(device_q.download().view, q);
        expect_same_bytes(device_scale.download().view, scale);
      }
    }
  }
}

}  // namespace
}  // namespace fathom
