#include "fathom/ops/silu_mul_quant.hpp"

#include <algorithm>
#include <cmath>

#include "fathom/ops/quantize_groups.hpp"
#include "fathom/ops/silu_mul.hpp"
#include "ops/group_quant.hpp"
#include "ops/op_test.hpp"
#include "ops/silu_mul_quant/silu_mul_quant_impl.hpp"

namespace fathom {
namespace {

constexpr ScaleLayout kLayouts[] = {ScaleLayout::row_major, ScaleLayout::column_major,
                                    ScaleLayout::aligned_column_major, ScaleLayout::packed_ue8m0};

struct Output {
  Tensor q;
  Tensor scale;  // raw words of the layout

  /// Room for every expert, poisoned. `problem.experts` 0 gives one 2-D matrix.
  explicit Output(const SiluMulQuantProblem& problem)
      : q(poisoned(DType::f8e4m3, {std::max<std::int64_t>(problem.experts, 1), problem.rows, problem.dim})),
        scale(poisoned(DType::i32,
                       {std::max<std::int64_t>(problem.experts, 1) *
                        scale_bytes(problem.scale_layout, problem.rows, scale_groups(problem.dim)) / 4})) {}

  void bind(const SiluMulQuantProblem& problem, SiluMulQuantArgs& args) const {
    const std::int64_t groups = scale_groups(problem.dim);
    void* words = scale.view().data;
    if (problem.experts > 0) {
      args.q = q;
      args.scale = scale_view(words, problem.scale_layout, problem.experts, problem.rows, groups);
    } else {
      args.q = matrix_of(q, 0);
      args.scale = scale_view(words, problem.scale_layout, problem.rows, groups);
    }
    args.scale_format = problem.scale_format;
    args.scale_layout = problem.scale_layout;
    args.swizzled = problem.swizzled;
    if (problem.clamp) args.clamp_limit = 2.5f;
  }
};

// The product kept in f32, then quantised by the rule: the two ops must give the bytes of the fused one.
TEST(SiluMulQuant, EqualsItsTwoParts) {
  for (const std::int64_t dim : {8, 128, 200, 513, 1100, 8200}) {
    for (const bool clamp : {false, true}) {
      SCOPED_TRACE(dim);
      const SiluMulQuantProblem problem{.rows = 5, .dim = dim, .clamp = clamp};
      Random random(dim);
      const Tensor gate_up = random.normal(DType::bf16, {5, 2 * dim}, 4);
      const Output got(problem);
      SiluMulQuantArgs args{.gate_up = gate_up};
      got.bind(problem, args);
      silu_mul_quant(args, test_context());
      const Tensor v = poisoned(DType::f32, {5, dim});
      Tensor q = poisoned(DType::f8e4m3, {5, dim});
      Tensor scale = poisoned(DType::f32, {5, scale_groups(dim)});
      silu_mul({.gate_up = gate_up, .out = v, .clamp_limit = args.clamp_limit}, test_context());
      quantize_groups({.x = v, .q = q, .scale = scale, .rule = QuantRule::silu_mul}, test_context());
      expect_same_bytes(args.q, q);
      expect_same_bytes(args.scale, scale);
    }
  }
}

// Any shape, layout and mask: the bytes of the reference, and rows >= masked_m keep theirs.
TEST(SiluMulQuant, EveryImplementationGivesTheSameBytes) {
  Random random(31);
  for (int round = 0; round < 300; ++round) {
    const ScaleLayout layout = kLayouts[random.integer(0, 3)];
    SiluMulQuantProblem problem{.experts = random.integer(0, 6),
                                .rows = random.integer(0, 9),
                                .dim = random.integer(1, 400),
                                .gate_up = random.integer(0, 1) ? DType::bf16 : DType::f32,
                                .scale_format = layout == ScaleLayout::packed_ue8m0 || random.integer(0, 1)
                                                    ? ScaleFormat::ue8m0
                                                    : ScaleFormat::f32,
                                .scale_layout = layout,
                                .swizzled = random.integer(0, 1) == 1,
                                .clamp = random.integer(0, 1) == 1};
    if (problem.swizzled) problem.dim = (problem.dim + 7) / 8 * 8;
    SCOPED_TRACE(problem_string(problem));
    const std::int64_t matrices = std::max<std::int64_t>(problem.experts, 1);
    Tensor gate_up = random.normal(problem.gate_up, {matrices, problem.rows, 2 * problem.dim}, 5);
    Tensor masked_m(DType::i32, {matrices});
    for (std::int64_t e = 0; e < matrices; ++e)
      masked_m.set(e, static_cast<double>(random.integer(0, problem.rows)));
    if (problem.experts > 0) {  // rows behind the mask hold NaN
      for (std::int64_t i = 0; i < gate_up.count(); ++i) {
        const std::int64_t row = i / (2 * problem.dim);
        if (row % problem.rows >= masked_m.as<std::int32_t>()[row / problem.rows])
          gate_up.set(i, std::nan(""));
      }
    }
    SiluMulQuantArgs args{.gate_up = problem.experts > 0 ? gate_up.view() : matrix_of(gate_up, 0)};
    if (problem.experts > 0) args.masked_m = masked_m;
    const Output got(problem);
    const Output expected(problem);
    got.bind(problem, args);
    silu_mul_quant(args, test_context());
    expected.bind(problem, args);
    silu_mul_quant_ref(problem, args, test_context());
    expect_same_bytes(got.q, expected.q);
    expect_same_bytes(got.scale, expected.scale);
    for (std::int64_t i = 0; i < got.q.count(); ++i) {
      const std::int64_t row = i / problem.dim;
      const bool valid =
          problem.experts == 0 || row % problem.rows < masked_m.as<std::int32_t>()[row / problem.rows];
      EXPECT_EQ(got.q.as<std::uint8_t>()[i] == 0xff, !valid);  // 0xff is the poison, and no code is NaN here
    }
    if (HasFailure()) return;
  }
}

TEST(SiluMulQuant, SwizzleIsDeinterleaveThenPlain) {
  Random random(4);
  const std::int64_t dim = 264;
  const Tensor plain = random.normal(DType::bf16, {3, 2 * dim}, 3);
  Tensor swizzled(DType::bf16, {3, 2 * dim});
  for (std::int64_t r = 0; r < 3; ++r) {
    for (std::int64_t d = 0; d < dim; ++d) {
      swizzled.set(r * 2 * dim + d / 8 * 16 + d % 8, plain[r * 2 * dim + d]);
      swizzled.set(r * 2 * dim + d / 8 * 16 + 8 + d % 8, plain[r * 2 * dim + dim + d]);
    }
  }
  const SiluMulQuantProblem problem{.rows = 3, .dim = dim};
  const Output from_plain(problem);
  const Output from_swizzled(problem);
  SiluMulQuantArgs args{.gate_up = plain};
  from_plain.bind(problem, args);
  silu_mul_quant(args, test_context());
  from_swizzled.bind(problem, args);
  args.gate_up = swizzled;
  args.swizzled = true;
  silu_mul_quant(args, test_context());
  expect_same_bytes(from_swizzled.q, from_plain.q);
  expect_same_bytes(from_swizzled.scale, from_plain.scale);
}

// byte of (e, r, g) at e*(G*N) + (g/4)*(4N) + 4r + g%4 for N % 4 == 0 and G % 4 == 0
TEST(SiluMulQuant, TransposedScalesAreWhereThePeersPutThem) {
  const SiluMulQuantProblem problem{.experts = 3,
                                    .rows = 8,
                                    .dim = 1024,
                                    .scale_format = ScaleFormat::ue8m0,
                                    .scale_layout = ScaleLayout::packed_ue8m0};
  SiluMulQuantProblem rows_problem = problem;
  rows_problem.scale_layout = ScaleLayout::row_major;
  Random random(6);
  const Tensor gate_up = random.normal(DType::bf16, {3, 8, 2048}, 3);
  const Tensor masked_m = tensor_of<int>(DType::i32, {3}, {8, 0, 5});
  const Output packed(problem);
  const Output plain(rows_problem);
  SiluMulQuantArgs args{.gate_up = gate_up, .masked_m = masked_m};
  packed.bind(problem, args);
  silu_mul_quant(args, test_context());
  plain.bind(rows_problem, args);
  silu_mul_quant(args, test_context());
  for (std::int64_t e = 0; e < 3; ++e) {
    for (std::int64_t r = 0; r < 8; ++r) {
      for (std::int64_t g = 0; g < 8; ++g) {
        const int byte = packed.scale.as<std::uint8_t>()[e * 64 + g / 4 * 32 + 4 * r + g % 4];
        const float scale = plain.scale.as<float>()[(e * 8 + r) * 8 + g];
        EXPECT_EQ(byte, r < masked_m.as<std::int32_t>()[e] ? std::ilogb(scale) + 127 : 0x7b);
      }
    }
  }
}

// Shapes that peers reject: 512 experts with fewer than 512 lanes of work, rows not divisible by 4, 6 groups,
// a dim that is no multiple of 256, more rows than tokens * top_k.
TEST(SiluMulQuant, TakesAnyShape) {
  for (const SiluMulQuantProblem& problem : {SiluMulQuantProblem{.experts = 512, .rows = 3, .dim = 128},
                                             SiluMulQuantProblem{.experts = 2, .rows = 6, .dim = 768},
                                             SiluMulQuantProblem{.experts = 256, .rows = 5, .dim = 384},
                                             SiluMulQuantProblem{.experts = 1, .rows = 1, .dim = 9000},
                                             SiluMulQuantProblem{.experts = 7, .rows = 11, .dim = 77}}) {
    SCOPED_TRACE(problem_string(problem));
    Random random(problem.experts);
    const Tensor gate_up = random.normal(DType::bf16, {problem.experts, problem.rows, 2 * problem.dim});
    Tensor masked_m(DType::i32, {problem.experts});
    for (std::int64_t e = 0; e < problem.experts; ++e)
      masked_m.set(e, static_cast<double>(e % (problem.rows + 1)));
    SiluMulQuantArgs args{.gate_up = gate_up, .masked_m = masked_m};
    const Output together(problem);
    together.bind(problem, args);
    silu_mul_quant(args, test_context(2));
    for (std::int64_t e = 0; e < problem.experts; ++e) {  // each expert alone, contiguous, on one thread
      const std::int64_t m = e % (problem.rows + 1);
      SiluMulQuantProblem alone_problem = problem;
      alone_problem.experts = 0;
      alone_problem.rows = m;
      const Output alone(alone_problem);
      SiluMulQuantArgs alone_args{.gate_up = matrix_of(gate_up, e).rows(0, m)};
      alone.bind(alone_problem, alone_args);
      silu_mul_quant(alone_args, test_context(1));
      expect_same_bytes(matrix_of(args.q, e).rows(0, m), alone_args.q);
      expect_same_bytes(matrix_of(args.scale, e).rows(0, m), alone_args.scale);
    }
  }
}

// The unfused activation rounds silu and the product to bf16: close, not equal.
TEST(SiluMulQuant, IsNearTheActivationThatRoundsToBf16) {
  const SiluMulQuantProblem problem{.rows = 4, .dim = 256};
  Random random(12);
  const Tensor gate_up = random.normal(DType::bf16, {4, 512}, 3);
  const Output got(problem);
  SiluMulQuantArgs args{.gate_up = gate_up};
  got.bind(problem, args);
  silu_mul_quant(args, test_context());
  Tensor back(DType::f32, {4, 256});
  Tensor rounded(DType::f32, {4, 256});
  Tensor bound(DType::f32, {4, 256});
  for (std::int64_t i = 0; i < 4 * 256; ++i) {
    const float gate = static_cast<float>(gate_up[i / 256 * 512 + i % 256]);
    const float up = static_cast<float>(gate_up[i / 256 * 512 + 256 + i % 256]);
    const float silu = bf16_to_float(float_to_bf16(gate / (1 + std::exp(-gate))));
    rounded.set(i, bf16_to_float(float_to_bf16(silu * up)));
    const double s = static_cast<double>(args.scale.as<float>()[i / 128]);
    back.set(i, got.q[i] * s);
    bound.set(i, s * std::max(0x1p-10, std::abs(got.q[i]) / 16) + std::abs(rounded[i]) * 0x1p-7);
  }
  expect_within(back, rounded, bound);
}

TEST(SiluMulQuant, TakesEmptyTensorsWithoutData) {
  const Tensor masked_m = tensor_of<int>(DType::i32, {3}, {0, 0, 0});
  for (const std::string implementation : {"ref:any", "cpu:simd"}) {
    silu_mul_quant({.gate_up = TensorView::contiguous(nullptr, DType::bf16, {3, 0, 64}),
                    .q = TensorView::contiguous(nullptr, DType::f8e4m3, {3, 0, 32}),
                    .scale = scale_view(nullptr, ScaleLayout::row_major, 3, 0, 1),
                    .masked_m = masked_m},
                   forced_context(implementation));
  }
}

TEST(SiluMulQuant, RejectsBadArguments) {
  const SiluMulQuantProblem problem{.experts = 2, .rows = 4, .dim = 12};
  const Output output(problem);
  const Tensor gate_up = poisoned(DType::bf16, {2, 4, 24});
  const Tensor masked_m = tensor_of<int>(DType::i32, {2}, {4, 4});
  SiluMulQuantArgs good{.gate_up = gate_up, .masked_m = masked_m};
  output.bind(problem, good);
  const auto expect_error = [](const std::string& text, const SiluMulQuantArgs& args) {
    EXPECT_ERROR(InvalidArgument, "silu_mul_quant: " + text, silu_mul_quant(args, test_context()));
  };
  SiluMulQuantArgs args = good;
  args.masked_m = {};
  expect_error("'q' must have 2 axes, got [2,4,12]", args);
  const Tensor too_many = tensor_of<int>(DType::i32, {2}, {4, 5});
  args.masked_m = too_many;
  expect_error("'masked_m[1]' must be from 0 to 4, got 5", args);
  args = good;
  args.swizzled = true;
  expect_error("'dim' must be a multiple of 8 if swizzled, got 12", args);
  args = good;
  args.clamp_limit = -1.0f;
  expect_error("'clamp_limit' must be positive and finite", args);
  args = good;
  args.gate_up.shape[2] = 12;
  expect_error("'gate_up' must have shape [2,4,24], got [2,4,12]", args);
  args = good;
  args.scale_layout = ScaleLayout::packed_ue8m0;
  expect_error("'scale_format' must be ue8m0 for packed_ue8m0 scales, got f32", args);
}

}  // namespace
}  // namespace fathom
