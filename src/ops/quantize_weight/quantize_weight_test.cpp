#include "fathom/ops/quantize_weight.hpp"

#include <cmath>
#include <limits>

#include "ops/op_test.hpp"
#include "ops/quantize_weight/quantize_weight_impl.hpp"

namespace fathom {
namespace {

constexpr ScaleFormat kFormats[] = {ScaleFormat::f32, ScaleFormat::ue8m0};

// The error bound per element, the amax of each block found again, and ue8m0 scales within a factor of two.
TEST(QuantizeWeight, BlocksHaveTheirOwnScale) {
  Random random(1);
  Tensor w = random.normal(DType::f32, {200, 300}, 0.02);
  for (std::int64_t i = 0; i < w.count(); ++i) {
    w.set(i, w[i] * std::exp2(static_cast<double>(i / 300 / 128 * 3 + i % 300 / 128)));
  }
  for (const ScaleFormat format : kFormats) {
    const Tensor q = poisoned(DType::f8e4m3, {200, 300});
    const Tensor scale = poisoned(DType::f32, {2, 3});
    quantize_weight({.w = w, .q = q, .scale = scale, .scale_format = format}, test_context());
    Tensor back(DType::f32, {200, 300});
    Tensor bound(DType::f32, {200, 300});
    std::vector<double> amax(6, 0);
    for (std::int64_t i = 0; i < w.count(); ++i) {
      const std::int64_t block = i / 300 / 128 * 3 + i % 300 / 128;
      const double s = scale[block];
      amax[static_cast<std::size_t>(block)] = std::max(amax[static_cast<std::size_t>(block)], std::abs(w[i]));
      back.set(i, q[i] * s);
      bound.set(i, s * std::max(0x1p-10, std::abs(q[i]) / 16) * (1 + 1e-6));
    }
    expect_within(back, w, bound);
    for (std::int64_t block = 0; block < 6; ++block) {
      const float s = static_cast<float>(amax[static_cast<std::size_t>(block)]) / 448;
      EXPECT_EQ(scale.as<float>()[block],
                format == ScaleFormat::f32 ? s : std::exp2(std::ceil(std::log2(s))));
    }
  }
}

TEST(QuantizeWeight, ZeroBlocksUseTheFloor) {
  const Tensor w = tensor_of<float>(DType::bf16, {1, 2}, {0, 0});
  for (const ScaleFormat format : kFormats) {
    const Tensor q = poisoned(DType::f8e4m3, {1, 2});
    const Tensor scale = poisoned(DType::f32, {1, 1});
    quantize_weight({.w = w, .q = q, .scale = scale, .scale_format = format}, test_context());
    EXPECT_EQ(scale.as<float>()[0], format == ScaleFormat::f32 ? 1e-4f / 448 : 0x1p-22f);
    EXPECT_EQ(q[0], 0);
    EXPECT_EQ(q[1], 0);
  }
}

TEST(QuantizeWeight, EveryImplementationGivesTheSameBytes) {
  Random random(77);
  for (int round = 0; round < 60; ++round) {
    const QuantizeWeightProblem problem{.experts = random.integer(0, 2),
                                        .n = random.integer(0, 300),
                                        .k = random.integer(1, 300),
                                        .w = random.integer(0, 1) ? DType::f32 : DType::bf16,
                                        .scale_format = kFormats[random.integer(0, 1)]};
    SCOPED_TRACE(problem_string(problem));
    const std::int64_t experts = std::max<std::int64_t>(problem.experts, 1);
    const std::int64_t padding = random.integer(0, 1) * random.integer(1, 9);
    Tensor w = random.normal(problem.w, {experts, problem.n, problem.k + padding},
                             std::exp2(static_cast<double>(random.integer(-30, 30))));
    constexpr double kSpecials[] = {std::numeric_limits<double>::infinity(),
                                    std::numeric_limits<double>::quiet_NaN(), 0};
    if (w.count() > 0) w.set(random.integer(0, w.count() - 1), kSpecials[random.integer(0, 2)]);
    struct Output {
      Tensor q;
      Tensor scale;
    };
    const auto run = [&](const Context& context) {
      const std::int64_t n_blocks = scale_groups(problem.n);
      const std::int64_t k_blocks = scale_groups(problem.k);
      Output out{poisoned(DType::f8e4m3, {experts, problem.n, problem.k + padding}),
                 poisoned(DType::f32, {experts, n_blocks, k_blocks})};
      QuantizeWeightArgs args{.w = w, .q = out.q, .scale = out.scale, .scale_format = problem.scale_format};
      args.w.shape[2] = problem.k;
      args.q.shape[2] = problem.k;
      if (problem.experts == 0) {
        for (TensorView* view : {&args.w, &args.q, &args.scale}) {
          view->rank = 2;
          view->shape = {view->size(1), view->size(2)};
          view->stride = {view->step(1), view->step(2)};
        }
      }
      quantize_weight(args, context);
      return out;
    };
    const Output got = run(test_context(2));
    const Output expected = run(forced_context("ref:any"));
    expect_same_bytes(got.q, expected.q);
    expect_same_bytes(got.scale, expected.scale);
    if (HasFailure()) return;
  }
}

TEST(QuantizeWeight, RejectsBadArguments) {
  const Tensor w = poisoned(DType::f32, {200, 256});
  const Tensor q = poisoned(DType::f8e4m3, {200, 256});
  EXPECT_ERROR(InvalidArgument, "quantize_weight: 'scale' must have shape [2,2], got [1,2]",
               quantize_weight({.w = w, .q = q, .scale = poisoned(DType::f32, {1, 2})}, test_context()));
  EXPECT_ERROR(InvalidArgument, "quantize_weight: 'w' must have 2 axes, got [200]",
               quantize_weight({.w = poisoned(DType::f32, {200}), .q = q, .scale = w}, test_context()));
}

}  // namespace
}  // namespace fathom
