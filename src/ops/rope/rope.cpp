// rope: checks, the choice of an implementation, and the table of angles.
#include "fathom/ops/rope.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "ops/dispatch.hpp"
#include "ops/rope/rope_impl.hpp"
#include "ops/validate.hpp"

namespace fathom {
namespace {

using Impl = Implementation<RopeProblem, RopeArgs>;

// Best first for each device. The last of each device takes every valid problem.
constexpr Impl kImplementations[] = {
    {"cuda:simt", always, rope_simt, /*fallback=*/false, DeviceKind::cuda},
    {"cpu:simd", always, rope_cpu},
    {"ref:any", always, rope_ref, /*fallback=*/true},
};

RopeProblem validate(const RopeArgs& args, Device device) {
  const Expect expect{RopeProblem::op, device};
  expect.rank("x", args.x, 3);
  expect.rank("cos_sin", args.cos_sin, 2);
  const RopeProblem problem{.tokens = args.x.size(0),
                            .heads = args.x.size(1),
                            .dim = args.x.size(2),
                            .rope_dim = args.cos_sin.size(1),
                            .offset = args.offset,
                            .style = args.style,
                            .x = args.x.dtype};
  expect.tensor("x", args.x, {DType::f32, DType::bf16}, {-1, -1, -1});
  expect_rotation(expect, args.positions, args.cos_sin, problem.tokens, problem.dim, args.offset);
  return problem;
}

// The frequency of every pair, in f32 step by step as Hugging Face transformers computes it.
std::vector<float> frequencies(const RopeConfig& config) {
  const auto half = static_cast<std::size_t>(config.dim / 2);
  std::vector<float> result(half);
  for (std::size_t i = 0; i < half; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(config.dim);
    result[i] = static_cast<float>(std::pow(config.theta, static_cast<double>(exponent)));  // theta^(2i/dim)
  }
  if (!config.yarn) {
    for (float& f : result) f = 1.0f / f;
    return result;
  }
  // The pair that turns `rotations` times within the original context.
  const auto pair_of = [&](double rotations) {
    const auto context = static_cast<double>(config.original_max_position_embeddings);
    return static_cast<double>(config.dim) * std::log(context / (rotations * 2 * std::numbers::pi)) /
           (2 * std::log(config.theta));
  };
  const double low = std::max(std::floor(pair_of(config.beta_fast)), 0.0);
  double high = std::min(std::ceil(pair_of(config.beta_slow)), static_cast<double>(config.dim - 1));
  if (low == high) high += 0.001;
  for (std::size_t i = 0; i < half; ++i) {
    const float ramp = std::clamp(
        (static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low), 0.0f, 1.0f);
    const float keep = 1.0f - ramp;  // 1: the pair turns fast and keeps its frequency
    const float stretched = 1.0f / (static_cast<float>(config.factor) * result[i]);
    result[i] = stretched * (1.0f - keep) + 1.0f / result[i] * keep;
  }
  return result;
}

void check(const RopeConfig& config, std::int64_t positions) {
  const Expect expect{"make_rope_table"};
  expect.at_least("positions", positions, 0);
  expect.that(config.dim > 0 && config.dim % 2 == 0, "dim", "be positive and even", config.dim);
  const auto positive = [&](std::string_view name, double value) {
    expect.that(std::isfinite(value) && value > 0, name, "be positive", value);
  };
  positive("theta", config.theta);
  if (!config.yarn) return;
  expect.that(config.theta != 1, "theta", "differ from 1 with yarn", "1");
  positive("factor", config.factor);
  positive("beta_fast", config.beta_fast);
  positive("beta_slow", config.beta_slow);
  expect.at_least("original_max_position_embeddings", config.original_max_position_embeddings, 1);
}

}  // namespace

void expect_rotation(const Expect& expect, const TensorView& positions, const TensorView& cos_sin,
                     std::int64_t tokens, std::int64_t dim, std::int64_t offset) {
  expect.tensor("positions", positions, {DType::i32, DType::i64}, {tokens});
  expect.tensor("cos_sin", cos_sin, {DType::f32}, {-1, -1});
  const std::int64_t rope_dim = cos_sin.size(1);
  if (rope_dim % 2 != 0) expect.fail("cos_sin", "have an even number of columns", shape_string(cos_sin));
  if (offset < 0 || offset > dim - rope_dim) {
    expect.fail("offset",
                "leave room for " + std::to_string(rope_dim) + " of " + std::to_string(dim) + " elements",
                std::to_string(offset));
  }
  const std::int64_t limit = cos_sin.size(0);
  for (std::int64_t t = 0; on_host(expect.device) && t < tokens; ++t) {
    const std::int64_t position = rope_position(positions, t);
    if (position >= 0 && position < limit) continue;
    expect.fail("positions", "be in [0," + std::to_string(limit) + ")",
                std::to_string(position) + " at token " + std::to_string(t));
  }
}

std::string_view to_string(RopeStyle style) {
  return style == RopeStyle::half_split ? "half_split" : "interleaved";
}

bool parse_enum(std::string_view text, RopeStyle& style) {
  for (const RopeStyle candidate : {RopeStyle::half_split, RopeStyle::interleaved}) {
    if (to_string(candidate) == text) {
      style = candidate;
      return true;
    }
  }
  return false;
}

double yarn_mscale(double factor, double mscale) {
  return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

double attention_softmax_scale(const RopeConfig& config, std::int64_t head_dim) {
  const double scale = 1 / std::sqrt(static_cast<double>(head_dim));
  if (!config.yarn || config.mscale_all_dim == 0) return scale;
  const double mscale = yarn_mscale(config.factor, config.mscale_all_dim);
  return scale * mscale * mscale;
}

Buffer make_rope_table(const RopeConfig& config, std::int64_t positions) {
  check(config, positions);
  double scale = 1;
  if (config.yarn) {
    const bool both = config.mscale != 0 && config.mscale_all_dim != 0;
    scale =
        config.attention_factor ? *config.attention_factor
        : both ? yarn_mscale(config.factor, config.mscale) / yarn_mscale(config.factor, config.mscale_all_dim)
               : yarn_mscale(config.factor, 1);
  }
  const std::vector<float> frequency = frequencies(config);
  const std::int64_t half = config.dim / 2;
  const TensorView shape = TensorView::contiguous(nullptr, DType::f32, {positions, config.dim});
  Buffer table(shape.count() * size_of(DType::f32));
  auto* values = TensorView(table.view(DType::f32, {positions, config.dim})).as<float>();
  for (std::int64_t p = 0; p < positions; ++p) {
    for (std::int64_t i = 0; i < half; ++i) {
      // The angle is rounded to f32 as there; its cosine and sine are then the closest f32.
      const float angle = static_cast<float>(p) * frequency[static_cast<std::size_t>(i)];
      const auto cos = static_cast<float>(std::cos(static_cast<double>(angle)));
      const auto sin = static_cast<float>(std::sin(static_cast<double>(angle)));
      values[p * config.dim + i] = cos * static_cast<float>(scale);
      values[p * config.dim + half + i] = sin * static_cast<float>(scale);
    }
  }
  return table;
}

extern const OpInfo rope_info;
const OpInfo rope_info =
    make_op_info("rotary position embedding in place, both pairings", RopeProblem{}, kImplementations);

void rope(const RopeArgs& args, const Context& context) {
  dispatch(kImplementations, validate, args, context);
}

}  // namespace fathom
