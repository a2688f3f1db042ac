#include "fathom/ops/silu_mul_quant.hpp"

#include <cmath>

#include "ops/dispatch.hpp"
#include "ops/group_quant.hpp"
#include "ops/silu_mul_quant/silu_mul_quant_impl.hpp"
#include "ops/validate.hpp"

namespace fathom {
namespace {

using Impl = Implementation<SiluMulQuantProblem, SiluMulQuantArgs>;

// Best first for each device. The last of each takes every valid problem.
constexpr Impl kImplementations[] = {
    {"cuda:simt", always, silu_mul_quant_simt, /*fallback=*/false, DeviceKind::cuda},
    {"cpu:simd", always, silu_mul_quant_cpu},
    {"ref:any", always, silu_mul_quant_ref, /*fallback=*/true},
};

void check_masked_m(const Expect& expect, const TensorView& masked_m, std::int64_t rows) {
  for (std::int64_t e = 0; e < masked_m.size(0); ++e) {
    const std::int32_t m = masked_m.as<std::int32_t>()[e];
    if (m >= 0 && m <= rows) continue;
    expect.fail("masked_m[" + std::to_string(e) + "]", "be from 0 to " + std::to_string(rows),
                std::to_string(m));
  }
}

SiluMulQuantProblem validate(const SiluMulQuantArgs& args, Device device) {
  const Expect expect{SiluMulQuantProblem::op, device};
  const bool masked = args.masked_m.given();
  const int rank = masked ? 3 : 2;
  expect.rank("q", args.q, rank);
  const SiluMulQuantProblem problem{.experts = masked ? args.q.size(0) : 0,
                                    .rows = args.q.size(rank - 2),
                                    .dim = args.q.size(rank - 1),
                                    .gate_up = args.gate_up.dtype,
                                    .scale_format = args.scale_format,
                                    .scale_layout = args.scale_layout,
                                    .swizzled = args.swizzled,
                                    .clamp = args.clamp_limit.has_value()};
  const std::int64_t groups = scale_groups(problem.dim);
  expect.at_least("dim", problem.dim, 1);
  if (masked) {
    expect.tensor("q", args.q, {DType::f8e4m3}, {-1, -1, -1});
    expect.tensor("gate_up", args.gate_up, {DType::f32, DType::bf16},
                  {problem.experts, problem.rows, 2 * problem.dim});
    expect_scale(expect, "scale", args.scale, args.scale_format, args.scale_layout, problem.rows, groups,
                 problem.experts);
    expect.tensor("masked_m", args.masked_m, {DType::i32}, {problem.experts});
    // The counts of a device stay there; its kernels take one that is out of range for the nearest that is
    // not.
    if (device.kind == DeviceKind::host) check_masked_m(expect, args.masked_m, problem.rows);
  } else {
    expect.tensor("q", args.q, {DType::f8e4m3}, {-1, -1});
    expect.tensor("gate_up", args.gate_up, {DType::f32, DType::bf16}, {problem.rows, 2 * problem.dim});
    expect_scale(expect, "scale", args.scale, args.scale_format, args.scale_layout, problem.rows, groups);
  }
  if (problem.swizzled && problem.dim % 8 != 0) {
    expect.fail("dim", "be a multiple of 8 if swizzled", std::to_string(problem.dim));
  }
  if (problem.clamp && !(*args.clamp_limit > 0 && std::isfinite(*args.clamp_limit))) {
    expect.fail("clamp_limit", "be positive and finite", std::to_string(*args.clamp_limit));
  }
  return problem;
}

}  // namespace

extern const OpInfo silu_mul_quant_info;
const OpInfo silu_mul_quant_info =
    make_op_info("gated activation quantised to FP8", SiluMulQuantProblem{}, kImplementations);

void silu_mul_quant(const SiluMulQuantArgs& args, const Context& context) {
  dispatch(kImplementations, validate, args, context);
}

}  // namespace fathom
