#include "fathom/ops/hadamard.hpp"

#include <bit>

#include "ops/dispatch.hpp"
#include "ops/hadamard/hadamard_impl.hpp"
#include "ops/validate.hpp"

namespace fathom {
namespace {

using Impl = Implementation<HadamardProblem, HadamardArgs>;

// Best first for each device. The reference takes every valid problem, `cuda:simt` rows of up to 16384 by
// name.
constexpr Impl kImplementations[] = {
    {"cuda:simt", hadamard_simt_can_run, hadamard_simt, /*fallback=*/false, DeviceKind::cuda},
    {"cpu:simd", always, hadamard_cpu},
    {"ref:any", always, hadamard_ref, /*fallback=*/true},
};

HadamardProblem validate(const HadamardArgs& args, Device device) {
  const Expect expect{HadamardProblem::op, device};
  expect.rank("x", args.x, 2);
  const HadamardProblem problem{
      .rows = args.x.size(0), .dim = args.x.size(1), .x = args.x.dtype, .out = args.out.dtype};
  expect.tensor("x", args.x, {DType::f32, DType::bf16}, {-1, -1});
  if (problem.dim < 1 || !std::has_single_bit(static_cast<std::uint64_t>(problem.dim))) {
    expect.fail("dim", "be a power of two", std::to_string(problem.dim));
  }
  expect.tensor("out", args.out, {DType::f32, DType::bf16}, {problem.rows, problem.dim});
  return problem;
}

}  // namespace

extern const OpInfo hadamard_info;
const OpInfo hadamard_info =
    make_op_info("orthonormal Walsh-Hadamard rotation of rows", HadamardProblem{}, kImplementations);

void hadamard(const HadamardArgs& args, const Context& context) {
  dispatch(kImplementations, validate, args, context);
}

}  // namespace fathom
