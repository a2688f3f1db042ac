// The ops of the expert path on CUDA tensors against the CPU's on host copies: every implementation.
#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "fathom/ops/moe_combine.hpp"
#include "fathom/ops/moe_permute.hpp"
#include "fathom/ops/moe_route.hpp"
#include "fathom/ops/quantize_groups.hpp"
#include "fathom/ops/silu_mul.hpp"
#include "fathom/ops/silu_mul_quant.hpp"
#include "on_device.hpp"
#include "ops/moe_forward/moe_forward_test.hpp"
#include "warm_up.hpp"

namespace fathom {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr ScaleLayout kLayouts[] = {ScaleLayout::row_major, ScaleLayout::column_major,
                                    ScaleLayout::aligned_column_major, ScaleLayout::packed_ue8m0};
constexpr QuantRule kRules[] = {QuantRule::per_token_group, QuantRule::silu_mul, QuantRule::indexer,
                                QuantRule::per_token_cast, QuantRule::kv_cache};

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
  const Seed seed;
  Random random(seed.value);
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
    const Seed seed;
    Random random(seed.value);
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

// Gates and ups, outputs and counts of one problem, as they lie on the host; experts 0: contiguous.
struct SiluCase {
  SiluCase(const SiluMulQuantProblem& problem, const Tensor& values, std::int64_t padding)
      : p(problem),
        matrices(std::max<std::int64_t>(p.experts, 1)),
        gate_up(strided(values, padding)),
        q(strided(poisoned(DType::f8e4m3, {matrices * p.rows, p.dim}), padding)),
        scale(scales(p.scale_layout, matrices, p.rows, scale_groups(p.dim), p.experts > 0)),
        masked_m(DType::i32, {matrices}) {
    for (Strided* tensor : {&gate_up, &q}) {
      if (p.experts == 0) continue;
      TensorView& view = tensor->view;
      view.rank = 3;
      view.shape = {p.experts, p.rows, view.size(1)};
      view.stride = {p.rows * view.step(0), view.step(0), 1};
    }
    for (std::int64_t e = 0; e < matrices; ++e) masked_m.set(e, static_cast<double>(p.rows));
  }
  void run(const TensorView& from, const TensorView& to, const TensorView& s, const TensorView& counts,
           const Context& context) const {
    SiluMulQuantArgs args{.gate_up = from,
                          .q = to,
                          .scale = s,
                          .scale_format = p.scale_format,
                          .scale_layout = p.scale_layout,
                          .swizzled = p.swizzled};
    if (p.experts > 0) args.masked_m = counts;
    if (p.clamp) args.clamp_limit = 2.3f;
    silu_mul_quant(args, context);
  }
  void run_on_host() const { run(gate_up.view, q.view, scale.view, masked_m, test_context()); }

  SiluMulQuantProblem p;
  std::int64_t matrices;
  Strided gate_up, q, scale;
  Tensor masked_m;
};

void check_silu(const SiluCase& problem, const std::string& implementation, std::int64_t shift = 0) {
  SCOPED_TRACE(problem_string(problem.p) + " " + implementation);
  const OnDevice gate_up(problem.gate_up, shift);
  const OnDevice q(problem.q, shift);
  const OnDevice scale(problem.scale);
  const OnDevice masked_m(problem.masked_m);
  problem.run(gate_up, q, scale, masked_m, device_context(implementation));
  problem.run_on_host();
  expect_same_buffers(q, problem.q);
  expect_same_buffers(scale, problem.scale);
}

// Options of which each has a kernel of its own; sizes are drawn later.
SiluMulQuantProblem random_options(Random& random) {
  const ScaleLayout layout = kLayouts[random.integer(0, 3)];
  return {.experts = random.integer(0, 1),
          .gate_up = random.integer(0, 1) == 1 ? DType::bf16 : DType::f32,
          .scale_format = layout == ScaleLayout::packed_ue8m0 || random.integer(0, 1) == 1
                              ? ScaleFormat::ue8m0
                              : ScaleFormat::f32,
          .scale_layout = layout,
          .swizzled = random.integer(0, 1) == 1,
          .clamp = random.integer(0, 1) == 1};
}

TEST(SiluMulQuantOnDevice, EveryOptionGivesTheBytesOfTheHost) {
  for (const std::string& implementation : cuda_implementations("silu_mul_quant")) {
    const Seed seed;
    Random random(seed.value);
    SiluMulQuantProblem p;
    for (int round = 0; round < 240 && !HasFailure(); ++round) {
      if (round % 20 == 0) p = random_options(random);  // kernels take half a second to compile
      if (p.experts > 0) p.experts = random.integer(1, 9);
      p.rows = random.integer(0, 12);
      p.dim = random.integer(0, 1) == 1 ? 16 * random.integer(1, 40) : random.integer(1, 600);
      if (p.swizzled) p.dim = (p.dim + 7) / 8 * 8;
      const std::int64_t rows = std::max<std::int64_t>(p.experts, 1) * p.rows;
      const double deviation = std::pow(2.0, static_cast<double>(random.integer(-3, 6)));
      SiluCase problem(p,
                       random.integer(0, 1) == 1 ? wild(random, p.gate_up, rows, 2 * p.dim)
                                                 : random.normal(p.gate_up, {rows, 2 * p.dim}, deviation),
                       random.integer(0, 1) * (random.integer(0, 1) == 1 ? 16 : 3));
      for (std::int64_t e = 0; e < problem.matrices; ++e) {
        problem.masked_m.set(e, static_cast<double>(random.integer(0, p.rows)));
      }
      check_silu(problem, implementation, random.integer(0, 1) * (random.integer(0, 1) == 1 ? 16 : 4));
    }
  }
}

// Every gate of bf16, with ups that bring the products to where codes change.
TEST(SiluMulQuantOnDevice, EveryGate) {
  for (const std::string& implementation : cuda_implementations("silu_mul_quant")) {
    for (const float size : {1.0f, 30.0f, 1e-25f, 1e25f}) {
      const Seed seed;
      Random random(seed.value);
      Tensor values = random.normal(DType::bf16, {512, 256}, static_cast<double>(size));
      for (std::int64_t r = 0; r < 512; ++r) {
        for (std::int64_t i = 0; i < 128; ++i) {  // neighbours in one group, so that all of them count
          values.as<std::uint16_t>()[r * 256 + i] = static_cast<std::uint16_t>(r * 128 + i);
        }
      }
      check_silu(SiluCase({.rows = 512, .dim = 128}, values, 0), implementation);
    }
  }
}

// Rows and groups that no power of two divides, more experts than threads or columns, counts far above
// others.
TEST(SiluMulQuantOnDevice, ShapesThatPeersRefuse) {
  struct Shape {
    std::int64_t experts, rows, dim;
    std::vector<int> counts;
  };
  for (const std::string& implementation : cuda_implementations("silu_mul_quant")) {
    for (const Shape& shape : {Shape{512, 3, 128, {1, 0, 3, 2}},
                               {2, 6, 768, {5}},
                               {256, 5, 384, {0, 0, 5}},
                               {1, 1, 9000, {1}},
                               {7, 11, 77, {11, 3}},
                               {1300, 2, 16, {1, 0, 2}},
                               {3, 4096, 256, {4001, 114, 0}},
                               {32, 20, 2048, {20}}}) {
      const Seed seed;
      Random random(seed.value);
      SiluCase problem({.experts = shape.experts, .rows = shape.rows, .dim = shape.dim},
                       random.normal(DType::bf16, {shape.experts * shape.rows, 2 * shape.dim}, 3), 0);
      for (std::int64_t e = 0; e < shape.experts; ++e) {
        problem.masked_m.set(e, shape.counts[static_cast<std::size_t>(e) % shape.counts.size()]);
      }
      check_silu(problem, implementation);
    }
    const Seed seed;
    Random random(seed.value);
    for (const std::int64_t rows : {64, 515}) {
      check_silu(SiluCase({.rows = rows, .dim = 2048}, random.normal(DType::bf16, {rows, 4096}, 2), 0),
                 implementation);
    }
  }
}

// A count that is out of range reads and writes no row that does not exist.
TEST(SiluMulQuantOnDevice, CountsAreKeptInRange) {
  const Seed seed;
  Random random(seed.value);
  SiluCase problem({.experts = 3, .rows = 5, .dim = 256}, random.normal(DType::bf16, {15, 512}), 0);
  const Tensor wrong = tensor_of<int>(DType::i32, {3}, {-7, 1000000, 2});
  problem.masked_m.set(0, 0);
  problem.masked_m.set(2, 2);
  problem.run_on_host();
  const SiluCase poisoned_case(problem.p, random.normal(DType::bf16, {15, 512}), 0);
  for (const std::string& implementation : cuda_implementations("silu_mul_quant")) {
    const OnDevice gate_up(problem.gate_up);
    const OnDevice q(poisoned_case.q);
    const OnDevice scale(poisoned_case.scale);
    const OnDevice masked_m(wrong);
    problem.run(gate_up, q, scale, masked_m, device_context(implementation));
    expect_same_buffers(q, problem.q);
    expect_same_buffers(scale, problem.scale);
  }
}

// One launch; a graph replayed 200 times follows the counts on the device and always gives the same bytes.
TEST(SiluMulQuantOnDevice, FollowsTheCountsInAGraph) {
  const Seed seed;
  Random random(seed.value);
  SiluCase problem({.experts = 32, .rows = 20, .dim = 2048}, random.normal(DType::bf16, {640, 4096}), 0);
  for (const std::string& implementation : cuda_implementations("silu_mul_quant")) {
    const OnDevice gate_up(problem.gate_up);
    const OnDevice q(problem.q);
    const OnDevice scale(problem.scale);
    const OnDevice masked_m(problem.masked_m);
    const cuda::Stream stream(device_context(implementation));
    const Context context = device_context(implementation).on_stream(stream.handle());
    problem.run(gate_up, q, scale, masked_m, context);  // compiled before the capture
    stream.synchronize();
    const cuda::Graph graph =
        cuda::Graph::capture(context, [&] { problem.run(gate_up, q, scale, masked_m, context); });
    SiluCase expected({.experts = 32, .rows = 20, .dim = 2048}, random.normal(DType::bf16, {640, 4096}), 0);
    gate_up.upload(expected.gate_up.buffer);
    for (std::int64_t e = 0; e < 32; ++e)
      expected.masked_m.set(e, static_cast<double>(random.integer(0, 20)));
    masked_m.upload(expected.masked_m);
    q.upload(expected.q.buffer);
    scale.upload(expected.scale.buffer);
    expected.run_on_host();
    for (int i = 0; i < 200 && !HasFailure(); ++i) {
      graph.launch(context);
      stream.synchronize();
      expect_same_buffers(q, expected.q);
      expect_same_buffers(scale, expected.scale);
    }
  }
}

// Which NaN an operation gives is left to each machine.
void make_nans_alike(const TensorView& buffer) {
  for (std::int64_t i = 0; i < buffer.count(); ++i) {
    if (std::isnan(load_element(buffer.data, buffer.dtype, i)))
      store_element(buffer.data, buffer.dtype, i, kNan);
  }
}

TEST(SiluMulOnDevice, GivesTheBytesOfTheHost) {
  for (const std::string& implementation : cuda_implementations("silu_mul")) {
    const Seed seed;
    Random random(seed.value);
    for (int round = 0; round < 100 && !HasFailure(); ++round) {
      const bool whole = random.integer(0, 1) == 1;
      const SiluMulProblem p{.rows = random.integer(0, 20),
                             .dim = whole ? 8 * random.integer(1, 90) : random.integer(1, 700),
                             .gate_up = random.integer(0, 1) == 1 ? DType::bf16 : DType::f32,
                             .out = random.integer(0, 1) == 1 ? DType::bf16 : DType::f32,
                             .clamp = random.integer(0, 1) == 1};
      SCOPED_TRACE(problem_string(p) + " " + implementation);
      const std::int64_t padding = random.integer(0, 1) * (whole ? 8 : 3);
      const Strided gate_up = strided(wild(random, p.gate_up, p.rows, 2 * p.dim), padding);
      const Strided out = strided(poisoned(p.out, {p.rows, p.dim}), padding);
      const std::int64_t shift = random.integer(0, 1) * (whole ? 16 : 4);
      const OnDevice device_gate_up(gate_up, shift);
      const OnDevice device_out(out, shift);
      SiluMulArgs args{.gate_up = device_gate_up, .out = device_out};
      if (p.clamp) args.clamp_limit = 1.7f;
      silu_mul(args, device_context(implementation));
      args.gate_up = gate_up.view;
      args.out = out.view;
      silu_mul(args, test_context());
      const Strided got = device_out.download();
      make_nans_alike(got.buffer);
      make_nans_alike(out.buffer);
      expect_same_bytes(got.buffer, out.buffer);
    }
  }
}

struct Router {
  std::int64_t tokens, experts, n_group, topk_group, top_k;
  RouterScoring scoring = RouterScoring::sigmoid;
  bool bias = true;
};

// `steps`: logits are multiples of 1/steps, so that scores are often equal.
void check_route(const Router& r, std::int64_t steps, bool renormalize) {
  SCOPED_TRACE(std::to_string(r.tokens) + " tokens, " + std::to_string(r.experts) + " experts");
  const Seed seed;
  Random random(seed.value);
  Tensor logits = random.normal(DType::f32, {r.tokens, r.experts}, 2);
  for (std::int64_t i = 0; steps > 0 && i < logits.count(); ++i) {
    logits.set(i, std::round(logits[i] * static_cast<double>(steps)) / static_cast<double>(steps));
    if (random.integer(0, 500) == 0) logits.set(i, static_cast<double>(kNan));
  }
  const Tensor bias = random.uniform(DType::f32, {r.experts}, 0, steps > 0 ? 0 : 0.1);
  const Strided ids = strided(poisoned(DType::i32, {r.tokens, r.top_k}), 1);
  const Strided weights = strided(poisoned(DType::f32, {r.tokens, r.top_k}), 2);
  const OnDevice device_logits(strided(logits, 3));
  const OnDevice device_bias(bias);
  const OnDevice device_ids(ids);
  const OnDevice device_weights(weights);
  MoeRouteArgs args{.logits = device_logits,
                    .n_group = r.n_group,
                    .topk_group = r.topk_group,
                    .scoring = r.scoring,
                    .renormalize = renormalize,
                    .routed_scaling = 2.5f,
                    .ids = device_ids,
                    .weights = device_weights};
  if (r.bias) args.correction_bias = device_bias;
  moe_route(args, device_context());
  args.logits = logits;
  args.ids = ids.view;
  args.weights = weights.view;
  if (r.bias) args.correction_bias = bias;
  moe_route(args, test_context());
  expect_same_buffers(device_ids, ids);
  if (r.scoring == RouterScoring::sigmoid) {
    Strided got = device_weights.download();
    make_nans_alike(got.buffer);  // of an expert whose logit is NaN, where all are chosen
    make_nans_alike(weights.buffer);
    expect_same_bytes(got.buffer, weights.buffer);
  } else {
    expect_close(device_weights.download().view, weights.view, {.relative = 0x1p-20});
  }
}

TEST(MoeRouteOnDevice, ChoosesAsTheHostDoes) {
  for (const std::int64_t steps : {0, 4}) {
    for (const Router& router : {Router{1, 256, 8, 4, 8},
                                 {257, 256, 8, 4, 8},
                                 {0, 256, 8, 4, 8},
                                 {33, 512, 1, 1, 10},
                                 {5, 384, 1, 1, 6, RouterScoring::sigmoid, false},
                                 {9, 30, 6, 2, 3},
                                 {7, 16, 16, 5, 5},
                                 {3, 1000, 10, 10, 64},
                                 {4, 7, 1, 1, 7},
                                 {1000, 64, 4, 2, 6}}) {
      check_route(router, steps, steps == 0);
    }
  }
  check_route({50, 128, 1, 1, 8, RouterScoring::softmax, false}, 0, true);
  check_route({50, 128, 4, 2, 8, RouterScoring::softmax, false}, 0, false);
}

struct Permutation {
  std::int64_t tokens, top_k, groups, dim;
  DType x = DType::f8e4m3;
  std::int64_t alignment = 1;
  bool masked = false;
  std::int64_t padding = 0;
  bool skewed = false;  // nearly all slots to one group
};

void check_permute(const Permutation& p, const std::string& implementation) {
  SCOPED_TRACE(implementation + ", " + std::to_string(p.tokens) + " tokens, " + std::to_string(p.groups) +
               " groups, masked " + std::to_string(p.masked) + ", alignment " + std::to_string(p.alignment));
  const Seed seed;
  Random random(seed.value);
  const std::int64_t scales_wide = (p.dim + 127) / 128;
  Tensor ids(DType::i32, {p.tokens, p.top_k});
  for (std::int64_t i = 0; i < ids.count(); ++i) {
    const bool one = p.skewed && random.integer(0, 20) > 0;
    ids.set(i, static_cast<double>(one ? p.groups / 2 : random.integer(-1, p.groups - 1)));
  }
  const std::int64_t rows = p.masked ? std::max<std::int64_t>(1, p.tokens * p.top_k)
                                     : moe_permute_rows(p.tokens, p.top_k, p.groups, p.alignment) + 5;
  const std::int64_t all = p.masked ? p.groups * rows : rows;
  const Strided x = strided(random.normal(p.x, {p.tokens, p.dim}), p.padding);
  const DType scale = p.groups % 2 == 0 ? DType::f32 : DType::i32;  // packed exponents
  const Tensor x_scale = random.uniform(scale, {p.tokens, scales_wide}, 0, scale == DType::f32 ? 1 : 1e9);
  const Strided x_columns = column_major(x_scale, p.tokens + 3);
  Strided out = strided(poisoned(p.x, {all, p.dim}), p.padding);
  Strided out_scale = strided(poisoned(scale, {all, scales_wide}), 1);
  for (Strided* tensor : {&out, &out_scale}) {
    TensorView& view = tensor->view;
    if (!p.masked) continue;
    view.rank = 3;
    view.shape = {p.groups, rows, view.size(1)};
    view.stride = {rows * view.step(0), view.step(0), 1};
  }
  const Tensor slot_to_row = poisoned(DType::i32, {p.tokens, p.top_k});
  const Tensor row_to_group = poisoned(DType::i32, {rows});
  const Tensor offsets = poisoned(DType::i32, {p.groups + 1});
  const Tensor masked_m = poisoned(DType::i32, {p.groups});
  const OnDevice d_ids(ids), d_x(x), d_x_scale(x_columns), d_out(out), d_out_scale(out_scale),
      d_slots(slot_to_row), d_row_to_group(row_to_group), d_offsets(offsets), d_masked_m(masked_m);
  MoePermuteArgs args{.ids = d_ids,
                      .x = d_x,
                      .x_scale = d_x_scale,
                      .groups = p.groups,
                      .alignment = p.alignment,
                      .out = d_out,
                      .out_scale = d_out_scale,
                      .slot_to_row = d_slots,
                      .masked_m = d_masked_m};
  if (!p.masked) args.row_to_group = d_row_to_group;
  if (!p.masked) args.offsets = d_offsets;
  moe_permute(args, device_context(implementation));
  args = {.ids = ids,
          .x = x.view,
          .x_scale = x_columns.view,
          .groups = p.groups,
          .alignment = p.alignment,
          .out = out.view,
          .out_scale = out_scale.view,
          .slot_to_row = slot_to_row,
          .masked_m = masked_m};
  if (!p.masked) args.row_to_group = row_to_group;
  if (!p.masked) args.offsets = offsets;
  moe_permute(args, test_context());
  expect_same_buffers(d_out, out);
  expect_same_buffers(d_out_scale, out_scale);
  expect_same_bytes(d_slots.download().view, slot_to_row);
  expect_same_bytes(d_row_to_group.download().view, row_to_group);
  expect_same_bytes(d_offsets.download().view, offsets);
  expect_same_bytes(d_masked_m.download().view, masked_m);
}

void check_permute(const Permutation& p) {
  for (const std::string& implementation : cuda_implementations("moe_permute"))
    check_permute(p, implementation);
}

TEST(MoePermuteOnDevice, PutsEveryRowWhereTheHostDoes) {
  for (const std::int64_t tokens : {0, 1, 2, 5, 255, 256, 257, 1000}) {
    for (const std::int64_t alignment : {1, 128}) {
      check_permute({.tokens = tokens, .top_k = 8, .groups = 256, .dim = 256, .alignment = alignment});
      check_permute(
          {.tokens = tokens, .top_k = 3, .groups = 7, .dim = 144, .alignment = alignment, .skewed = true});
    }
  }
  for (const std::int64_t tokens : {0, 1, 4, 64, 300}) {
    check_permute({.tokens = tokens, .top_k = 2, .groups = 16, .dim = 128, .masked = true});
    check_permute({.tokens = tokens, .top_k = 8, .groups = 9, .dim = 48, .masked = true, .skewed = true});
  }
  check_permute({.tokens = 40, .top_k = 6, .groups = 512, .dim = 7168, .x = DType::bf16});
  check_permute({.tokens = 400, .top_k = 6, .groups = 512, .dim = 77, .x = DType::bf16, .padding = 3});
  check_permute({.tokens = 30, .top_k = 6, .groups = 900, .dim = 1, .x = DType::f32, .alignment = 3});
  check_permute({.tokens = 600, .top_k = 6, .groups = 900, .dim = 33, .x = DType::f32, .padding = 1});
  check_permute({.tokens = 4000, .top_k = 8, .groups = 32, .dim = 32, .alignment = 128, .skewed = true});
  check_permute({.tokens = 20, .top_k = 2, .groups = 5000, .dim = 16});
}

// On a device nobody looks at ids before the launch.
TEST(MoePermuteOnDevice, WritesNoRowThatDoesNotExist) {
  const Tensor ids = tensor_of<int>(DType::i32, {4, 2}, {0, 7, 1, -5, 0, 0, 2, 1});
  const Tensor x = tensor_of<int>(DType::f32, {4, 1}, {1, 2, 3, 4});
  for (const std::string& implementation : cuda_implementations("moe_permute")) {
    const OnDevice d_ids(ids), d_x(x), out(poisoned(DType::f32, {4, 1})), slots(poisoned(DType::i32, {4, 2})),
        offsets(poisoned(DType::i32, {4})), counts(poisoned(DType::i32, {3}));
    moe_permute({.ids = d_ids,
                 .x = d_x,
                 .groups = 3,
                 .out = out,
                 .slot_to_row = slots,
                 .offsets = offsets,
                 .masked_m = counts},
                device_context(implementation));
    expect_same_bytes(slots.download().view,
                      tensor_of<int>(DType::i32, {4, 2}, {0, -1, 3, -1, 1, 2, -1, -1}));
    expect_same_bytes(offsets.download().view, tensor_of<int>(DType::i32, {4}, {0, 3, 4, 4}));
    expect_same_bytes(counts.download().view, tensor_of<int>(DType::i32, {3}, {3, 1, 0}));
    expect_same_bytes(out.download().view, tensor_of<float>(DType::f32, {4, 1}, {1, 3, 3, 2}));
  }
}

TEST(MoeCombineOnDevice, GivesTheBytesOfTheHost) {
  const Seed seed;
  Random random(seed.value);
  for (int round = 0; round < 80 && !HasFailure(); ++round) {
    const bool whole = random.integer(0, 1) == 1;
    const MoeCombineProblem p{.tokens = random.integer(0, 40),
                              .top_k = random.integer(1, 11),
                              .rows = random.integer(1, 60),
                              .dim = whole ? 8 * random.integer(1, 90) : random.integer(1, 700),
                              .y = random.integer(0, 1) == 1 ? DType::bf16 : DType::f32,
                              .out = random.integer(0, 1) == 1 ? DType::bf16 : DType::f32,
                              .accumulate = random.integer(0, 1) == 1};
    SCOPED_TRACE(problem_string(p));
    const std::int64_t padding = random.integer(0, 1) * (whole ? 8 : 3);
    Tensor y_values = random.normal(p.y, {p.rows, p.dim});
    Tensor slots(DType::i32, {p.tokens, p.top_k});
    Tensor weights = random.normal(DType::f32, {p.tokens, p.top_k});
    std::vector<bool> used(static_cast<std::size_t>(p.rows));
    for (std::int64_t i = 0; i < slots.count(); ++i) {
      const std::int64_t row = random.integer(-1, p.rows / 2);
      slots.set(i, static_cast<double>(row < p.rows ? row : -1));
      if (slots[i] < 0) weights.set(i, static_cast<double>(kNan));  // of a slot that contributes nothing
      if (slots[i] >= 0) used[static_cast<std::size_t>(slots[i])] = true;
    }
    for (std::int64_t i = 0; i < y_values.count(); ++i) {  // NaN in rows that no slot names
      if (!used[static_cast<std::size_t>(i / p.dim)]) y_values.set(i, static_cast<double>(kNan));
    }
    const Strided y = strided(y_values, padding);
    const Strided out = strided(random.normal(p.out, {p.tokens, p.dim}), padding);
    const OnDevice d_y(y), d_slots(slots), d_weights(weights), d_out(out);
    moe_combine(
        {.y = d_y, .slot_to_row = d_slots, .weights = d_weights, .out = d_out, .accumulate = p.accumulate},
        device_context());
    moe_combine(
        {.y = y.view, .slot_to_row = slots, .weights = weights, .out = out.view, .accumulate = p.accumulate},
        test_context());
    expect_same_buffers(d_out, out);
  }
}

// By name, as every implementation here.
const std::string kMoeForward = "moe_forward=cuda:chain";

// A mixture of experts whose tensors are on the device.
struct DeviceMoe {
  explicit DeviceMoe(const MoeCase& host)
      : p(host.p),
        x(host.x),
        ids(host.ids),
        weights(host.weights),
        base(host.base),
        gate_up(host.gate_up),
        gate_up_scale(host.gate_up_scale),
        down(host.down),
        down_scale(host.down_scale),
        shared_gate_up(host.shared_gate_up),
        shared_gate_up_scale(host.shared_gate_up_scale),
        shared_down(host.shared_down),
        shared_down_scale(host.shared_down_scale),
        workspace(device_context(), host.most_workspace()),
        experts{split_groups(gate_up), split_groups(gate_up_scale), split_groups(down),
                split_groups(down_scale)} {
    poison();
  }
  // NaN in every format, so that nothing of an earlier call is of use.
  void poison() const { cuda::fill(device_context(), workspace.data(), 0xff, workspace.size()); }
  // Tokens [begin, end) into `out`.
  void run(const TensorView& out, const Context& context, GroupLayout layout, std::int64_t begin,
           std::int64_t end) const {
    MoeForwardArgs args{.x = x.view().rows(begin, end),
                        .ids = ids.view().rows(begin, end),
                        .weights = weights.view().rows(begin, end),
                        .gate_up = experts[0],
                        .gate_up_scale = experts[1],
                        .down = experts[2],
                        .down_scale = experts[3],
                        .out = out,
                        .workspace = workspace.view(DType::u8, {workspace.size()}),
                        .inner = p.inner,
                        .accumulate = p.accumulate,
                        .decode = p.decode,
                        .common = p.common,
                        .layout = layout};
    if (p.shared > 0) {
      args.shared = {.gate_up = shared_gate_up,
                     .gate_up_scale = split_groups(shared_gate_up_scale)[0],
                     .down = shared_down,
                     .down_scale = split_groups(shared_down_scale)[0]};
    }
    moe_forward(args, context);
  }
  Strided result(GroupLayout layout, std::int64_t begin = 0, std::int64_t end = -1,
                 const std::string& implementations = kMoeForward) const {
    if (end < 0) end = p.tokens;
    return result(layout, begin, end, device_context(implementations));
  }
  Strided result(GroupLayout layout, std::int64_t begin, std::int64_t end, const Context& context) const {
    const OnDevice out(poisoned(p.out, {end - begin, p.hidden}));
    if (p.accumulate)
      cuda::copy_on_device(device_context(), out.view().data, base.view().rows(begin, end).data,
                           (end - begin) * p.hidden * size_of(p.out));
    poison();
    run(out, context, layout, begin, end);
    return out.download();
  }

  MoeForwardProblem p;
  OnDevice x, ids, weights, base, gate_up, gate_up_scale, down, down_scale;
  OnDevice shared_gate_up, shared_gate_up_scale, shared_down, shared_down_scale;
  cuda::DeviceBuffer workspace;
  std::vector<std::vector<TensorView>> experts;
};

// Host and device add in other orders. A sum that bf16 then rounds the other way, where it is the largest of
// its group, moves that group's scale by 2^-8, and one in thirty of its values by an FP8 code, 2^-4 of
// itself.
constexpr double kMostFromHost = 5e-4;

constexpr GroupLayout kGroupLayouts[] = {GroupLayout::offsets, GroupLayout::masked, GroupLayout::contiguous};

TEST(MoeForwardOnDevice, AgreesWithTheHostInEveryLayout) {
  for (const std::int64_t tokens : {0, 1, 5, 64, 255, 256, 257}) {
    for (const std::int64_t shared : {0, 128}) {
      SCOPED_TRACE(tokens);
      const Seed seed;
      MoeCase host({.tokens = tokens,
                    .top_k = 3,
                    .experts = 12,
                    .hidden = 256,
                    .intermediate = 128,
                    .shared = shared,
                    .out = DType::f32},
                   seed.value);
      const DeviceMoe device(host);
      const Strided expected = device.result(GroupLayout::offsets);
      if (tokens == 0) continue;
      EXPECT_LT(calc_diff(expected.view, host.run(test_context())), kMostFromHost);
      if (tokens <= 64) {  // as near to the mixture that quantises nothing as the host is
        const double of_the_host = calc_diff(host.run(test_context()), host.in_double());
        EXPECT_LT(of_the_host, 4e-3);  // a token of 256 values may be far from the mean of 1e-3
        EXPECT_LT(calc_diff(expected.view, host.in_double()), 1.3 * of_the_host + 1e-5);
      }
      for (const GroupLayout layout : kGroupLayouts) {
        expect_same_bytes(device.result(layout).view, expected.view);
        expect_same_bytes(device.result(layout, tokens - 1, tokens).view,
                          expected.view.rows(tokens - 1, tokens));
      }
    }
  }
}

// Against the mixture that quantises nothing on its way. FP8 itself is 0.92e-3 from it, a token 0.04e-3 more
// or less: six together stay below the bar.
TEST(MoeForwardOnDevice, IsAccurateAtTheSizesOfTheModel) {
  const Seed seed;
  MoeCase host({.tokens = 6,
                .top_k = 2,
                .experts = 8,
                .hidden = 7168,
                .intermediate = 2048,
                .shared = 2048,
                .out = DType::f32},
               seed.value);
  const DeviceMoe device(host);
  EXPECT_LT(calc_diff(device.result(GroupLayout::offsets).view, host.in_double()), 1e-3);
}

// Every layout gives the same bytes, also with the shared expert as one of the experts.
TEST(MoeForwardOnDevice, LayoutsGiveTheSameBytes) {
  for (const std::int64_t tokens : {1, 9, 40}) {
    SCOPED_TRACE(tokens);
    const Seed seed;
    MoeCase host(
        {.tokens = tokens, .top_k = 3, .experts = 12, .hidden = 256, .intermediate = 128, .shared = 128},
        seed.value);
    const Strided expected = DeviceMoe(host).result(GroupLayout::offsets);
    const MoeCase together = with_shared_expert(host);
    const DeviceMoe device(together);
    for (const GroupLayout layout : kGroupLayouts)
      expect_same_bytes(device.result(layout).view, expected.view);
  }
}

// All tokens to one expert, slots without an expert, dimensions of no tile; NaN in every row that nobody
// fills.
TEST(MoeForwardOnDevice, OddShapesAndChoices) {
  for (const auto& [hidden, width] :
       {std::pair<std::int64_t, std::int64_t>{200, 72}, {384, 96}, {130, 260}}) {
    const Seed seed;
    MoeCase host({.tokens = 70,
                  .top_k = 2,
                  .experts = 9,
                  .hidden = hidden,
                  .intermediate = width,
                  .shared = 0,
                  .out = DType::f32},
                 seed.value);
    for (std::int64_t t = 0; t < 70; ++t) {
      host.ids.set(2 * t, t < 60 ? 7 : -1);
      host.ids.set(2 * t + 1, -1);
    }
    const DeviceMoe device(host);
    for (const GroupLayout layout : kGroupLayouts) {
      const Strided got = device.result(layout);
      EXPECT_LT(calc_diff(got.view, host.run(test_context())), kMostFromHost);
      for (std::int64_t t = 60; t < 70; ++t) EXPECT_EQ(at(got.view, t, 0), 0.0f);
    }
  }
}

// What goes in and out, what lies between the products, the class of the shared expert, kernels of any
// device.
TEST(MoeForwardOnDevice, EveryOptionAgreesWithTheHost) {
  const MoeForwardProblem small{.tokens = 20, .top_k = 3, .experts = 12, .hidden = 256, .intermediate = 128};
  std::vector<MoeForwardProblem> problems(4, small);
  problems[0].x = problems[0].inner = problems[0].out = DType::f32;
  problems[0].accumulate = true;
  problems[0].shared = 0;
  problems[1].out = DType::f32;
  problems[1].accumulate = problems[1].decode = true;
  problems[2].x = DType::f32;
  problems[2].decode = true;
  problems[3].inner = DType::f32;
  for (MoeForwardProblem& p : problems) {
    if (p.shared > 0) p.shared = 128;
    SCOPED_TRACE(problem_string(p));
    const Seed seed;
    MoeCase host(p, seed.value);
    const DeviceMoe device(host);
    const Tensor expected = host.run(test_context());
    for (const std::string& implementations : {kMoeForward, kMoeForward + ",cuda:simt"}) {
      for (const GroupLayout layout : kGroupLayouts) {
        const Strided got = device.result(layout, 0, -1, implementations);
        EXPECT_LT(calc_diff(got.view, expected), kMostFromHost) << implementations;
        for (const std::int64_t t : {0, 13})
          expect_same_bytes(device.result(layout, t, t + 1, implementations).view, got.view.rows(t, t + 1));
      }
    }
  }
}

// The activation in the epilogue of the product: the bytes of two launches, whatever part of a tile is an
// expert's. Slots without an expert, an expert without rows; NaN where nobody writes.
TEST(MoeForwardOnDevice, FusedGivesTheBytesOfTheChain) {
  for (const std::int64_t tokens : {1, 70, 300}) {
    for (const auto& [hidden, width] : {std::pair<std::int64_t, std::int64_t>{208, 128}, {640, 384}}) {
      SCOPED_TRACE(testing::Message() << tokens << " tokens, " << hidden << " to " << width);
      const Seed seed;
      MoeCase host({.tokens = tokens,
                    .top_k = 2,
                    .experts = 5,
                    .hidden = hidden,
                    .intermediate = width,
                    .shared = 0,
                    .out = DType::f32},
                   seed.value);
      for (std::int64_t i = 0; i < 2 * tokens; ++i) {
        if (host.ids[i] == 3 || i % 7 == 3) host.ids.set(i, -1);
      }
      const DeviceMoe device(host);
      for (const GroupLayout layout : kGroupLayouts) {
        const Strided expected = device.result(layout);
        const std::string fused = "moe_forward=sm90:activated";
        expect_same_bytes(device.result(layout, 0, -1, fused).view, expected.view);
        expect_same_bytes(device.result(layout, tokens - 1, tokens, fused).view,
                          expected.view.rows(tokens - 1, tokens));
      }
    }
  }
}

// What a warm-up compiles for a problem is all that it launches.
TEST(MoeForwardOnDevice, AWarmUpLeavesNothingToCompile) {
  const WarmCache cache(kMoeForward);
  for (const std::int64_t tokens : {1, 40, 700}) {
    for (const GroupLayout layout : {GroupLayout::offsets, GroupLayout::masked}) {
      MoeCase host({.tokens = tokens,
                    .top_k = 3,
                    .experts = 12,
                    .hidden = 256,
                    .intermediate = 128,
                    .shared = 128,
                    .layout = layout},
                   1);
      const DeviceMoe device(host);
      device.result(layout, 0, tokens, cache.warmed_up(problem_string(host.p)));
    }
  }
}

TEST(MoeForwardOnDevice, AWarmUpKnowsWhatIsFused) {
  const WarmCache cache("moe_forward=sm90:activated");
  const MoeCase host(
      {.tokens = 400, .top_k = 3, .experts = 12, .hidden = 256, .intermediate = 1024, .shared = 0}, 1);
  const DeviceMoe device(host);
  device.result(GroupLayout::offsets, 0, 400, cache.warmed_up(problem_string(host.p)));
}

// A graph replayed 100 times follows the ids and always gives the same bytes.
TEST(MoeForwardOnDevice, FollowsTheChoiceInAGraph) {
  const Seed seed;
  MoeCase host({.tokens = 16, .top_k = 4, .experts = 32, .hidden = 512, .intermediate = 256, .shared = 256},
               seed.value);
  const DeviceMoe device(host);
  for (const GroupLayout layout : kGroupLayouts) {
    const OnDevice out(poisoned(DType::bf16, {16, 512}));
    const cuda::Stream stream(device_context(kMoeForward));
    const Context context = device_context(kMoeForward).on_stream(stream.handle());
    device.run(out, context, layout, 0, 16);  // compiled before the capture
    stream.synchronize();
    const cuda::Graph graph = cuda::Graph::capture(context, [&] { device.run(out, context, layout, 0, 16); });
    // Others than in the recording, which has those of the layout before.
    for (std::int64_t i = 0; i < 16 * 4; ++i)
      host.ids.set(i, static_cast<double>((i * 5 + 7 * static_cast<std::int64_t>(layout) + 3) % 32));
    device.ids.upload(host.ids);
    out.upload(poisoned(DType::bf16, {16, 512}));
    const Strided expected = device.result(layout);
    for (int i = 0; i < 100 && !HasFailure(); ++i) {
      graph.launch(context);
      stream.synchronize();  // the next layout has the same workspace
      expect_same_bytes(out.download().view, expected.view);
    }
    EXPECT_LT(calc_diff(expected.view, host.run(test_context())), kMostFromHost);
  }
}

}  // namespace
}  // namespace fathom
