#include "fathom/ops/quantize_weight.hpp"

#include "ops/dispatch.hpp"
#include "ops/quantize_weight/quantize_weight_impl.hpp"
#include "ops/validate.hpp"

namespace fathom {
namespace {

using Impl = Implementation<QuantizeWeightProblem, QuantizeWeightArgs>;

// Best first. The reference is last and takes every valid problem.
constexpr Impl kImplementations[] = {
    {"cpu:simd", always, quantize_weight_cpu},
    {"ref:any", always, quantize_weight_ref, /*fallback=*/true},
};

QuantizeWeightProblem validate(const QuantizeWeightArgs& args, Device device) {
  const Expect expect{QuantizeWeightProblem::op, device};
  const int rank = args.w.rank == 3 ? 3 : 2;
  expect.rank("w", args.w, rank);
  const QuantizeWeightProblem problem{.experts = rank == 3 ? args.w.size(0) : 0,
                                      .n = args.w.size(rank - 2),
                                      .k = args.w.size(rank - 1),
                                      .w = args.w.dtype,
                                      .scale_format = args.scale_format};
  const std::int64_t n_blocks = scale_groups(problem.n);
  const std::int64_t k_blocks = scale_groups(problem.k);
  expect.at_least("k", problem.k, 1);
  if (rank == 3) {
    expect.tensor("w", args.w, {DType::f32, DType::bf16}, {-1, -1, -1});
    expect.tensor("q", args.q, {DType::f8e4m3}, {problem.experts, problem.n, problem.k});
    expect.tensor("scale", args.scale, {DType::f32}, {problem.experts, n_blocks, k_blocks});
  } else {
    expect.tensor("w", args.w, {DType::f32, DType::bf16}, {-1, -1});
    expect.tensor("q", args.q, {DType::f8e4m3}, {problem.n, problem.k});
    expect.tensor("scale", args.scale, {DType::f32}, {n_blocks, k_blocks});
  }
  return problem;
}

}  // namespace

extern const OpInfo quantize_weight_info;
const OpInfo quantize_weight_info = make_op_info("FP8 quantisation of weights in 128 x 128 blocks",
                                                 QuantizeWeightProblem{}, kImplementations);

void quantize_weight(const QuantizeWeightArgs& args, const Context& context) {
  dispatch(kImplementations, validate, args, context);
}

}  // namespace fathom
