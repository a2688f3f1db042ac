#include "fathom/ops/silu_mul.hpp"

#include <cmath>

#include "ops/dispatch.hpp"
#include "ops/silu_mul/silu_mul_impl.hpp"
#include "ops/validate.hpp"

namespace fathom {
namespace {

using Impl = Implementation<SiluMulProblem, SiluMulArgs>;

// Best first for each device. The last of each takes every valid problem.
constexpr Impl kImplementations[] = {
    {"cuda:simt", always, silu_mul_simt, /*fallback=*/false, DeviceKind::cuda},
    {"cpu:simd", always, silu_mul_cpu},
    {"ref:any", always, silu_mul_ref, /*fallback=*/true},
};

SiluMulProblem validate(const SiluMulArgs& args, Device device) {
  const Expect expect{SiluMulProblem::op, device};
  expect.rank("out", args.out, 2);
  const SiluMulProblem problem{.rows = args.out.size(0),
                               .dim = args.out.size(1),
                               .gate_up = args.gate_up.dtype,
                               .out = args.out.dtype,
                               .clamp = args.clamp_limit.has_value()};
  expect.tensor("out", args.out, {DType::f32, DType::bf16}, {-1, -1});
  expect.at_least("dim", problem.dim, 1);
  expect.tensor("gate_up", args.gate_up, {DType::f32, DType::bf16}, {problem.rows, 2 * problem.dim});
  if (problem.clamp && !(*args.clamp_limit > 0 && std::isfinite(*args.clamp_limit))) {
    expect.fail("clamp_limit", "be positive and finite", std::to_string(*args.clamp_limit));
  }
  return problem;
}

}  // namespace

extern const OpInfo silu_mul_info;
const OpInfo silu_mul_info =
    make_op_info("gated activation: silu(gate) * up", SiluMulProblem{}, kImplementations);

void silu_mul(const SiluMulArgs& args, const Context& context) {
  dispatch(kImplementations, validate, args, context);
}

}  // namespace fathom
