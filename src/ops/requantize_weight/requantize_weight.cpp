#include "fathom/ops/requantize_weight.hpp"

#include "ops/dispatch.hpp"
#include "ops/requantize_weight/requantize_weight_impl.hpp"
#include "ops/validate.hpp"

namespace fathom {
namespace {

using Impl = Implementation<RequantizeWeightProblem, RequantizeWeightArgs>;

// Best first. The reference is last and takes every valid problem.
constexpr Impl kImplementations[] = {
    {"cpu:table", always, requantize_weight_cpu},
    {"ref:any", always, requantize_weight_ref, /*fallback=*/true},
};

RequantizeWeightProblem validate(const RequantizeWeightArgs& args, Device device) {
  const Expect expect{RequantizeWeightProblem::op, device};
  const int rank = args.w.rank == 3 ? 3 : 2;
  expect.rank("w", args.w, rank);
  const RequantizeWeightProblem problem{
      .experts = rank == 3 ? args.w.size(0) : 0, .n = args.w.size(rank - 2), .k = args.w.size(rank - 1)};
  const std::int64_t n_blocks = scale_groups(problem.n);
  const std::int64_t k_blocks = scale_groups(problem.k);
  expect.at_least("k", problem.k, 1);
  if (rank == 3) {
    expect.tensor("w", args.w, {DType::f8e4m3}, {-1, -1, -1});
    expect.tensor("w_scale", args.w_scale, {DType::f32}, {problem.experts, n_blocks, k_blocks});
    expect.tensor("q", args.q, {DType::f8e4m3}, {problem.experts, problem.n, problem.k});
    expect.tensor("scale", args.scale, {DType::f32}, {problem.experts, n_blocks, k_blocks});
  } else {
    expect.tensor("w", args.w, {DType::f8e4m3}, {-1, -1});
    expect.tensor("w_scale", args.w_scale, {DType::f32}, {n_blocks, k_blocks});
    expect.tensor("q", args.q, {DType::f8e4m3}, {problem.n, problem.k});
    expect.tensor("scale", args.scale, {DType::f32}, {n_blocks, k_blocks});
  }
  return problem;
}

}  // namespace

extern const OpInfo requantize_weight_info;
const OpInfo requantize_weight_info = make_op_info("FP8 weights requantised to power-of-two scales",
                                                   RequantizeWeightProblem{}, kImplementations);

void requantize_weight(const RequantizeWeightArgs& args, const Context& context) {
  dispatch(kImplementations, validate, args, context);
}

}  // namespace fathom
