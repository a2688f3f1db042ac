#include "fathom/ops/index_query_prepare.hpp"

#include <bit>
#include <cmath>

#include "ops/dispatch.hpp"
#include "ops/index_query_prepare/index_query_prepare_impl.hpp"
#include "ops/validate.hpp"

namespace fathom {
namespace {

using Impl = Implementation<IndexQueryPrepareProblem, IndexQueryPrepareArgs>;

constexpr Impl kImplementations[] = {
    {"cuda:simt", index_query_prepare_simt_can_run, index_query_prepare_simt, /*fallback=*/false,
     DeviceKind::cuda},
    {"cpu:simd", always, index_query_prepare_cpu},
    {"ref:any", always, index_query_prepare_ref, /*fallback=*/true},
};

IndexQueryPrepareProblem validate(const IndexQueryPrepareArgs& args, Device device) {
  const Expect expect{IndexQueryPrepareProblem::op, device};
  expect.rank("q", args.q, 3);
  expect.rank("cos_sin", args.cos_sin, 2);
  const IndexQueryPrepareProblem problem{.tokens = args.q.size(0),
                                         .heads = args.q.size(1),
                                         .dim = args.q.size(2),
                                         .rope_dim = args.cos_sin.size(1),
                                         .offset = args.offset,
                                         .style = args.style,
                                         .hadamard = args.hadamard,
                                         .q = args.q.dtype,
                                         .out = args.out.dtype,
                                         .ue8m0 = args.ue8m0,
                                         .scale = args.scale.given(),
                                         .gate = args.gate.given()};
  const bool quantised = problem.out == DType::f8e4m3;
  expect.tensor("q", args.q, {DType::f32, DType::bf16}, {-1, -1, -1});
  expect.at_least("heads", problem.heads, 1);
  expect.at_least("dim", problem.dim, 1);
  expect.that(!quantised || problem.dim <= 128, "dim", "be at most 128 with an f8e4m3 out", problem.dim);
  expect_rotation(expect, args.positions, args.cos_sin, problem.tokens, problem.dim, args.offset);
  expect.that(!args.hadamard || std::has_single_bit(static_cast<std::uint64_t>(problem.dim)), "dim",
              "be a power of two with hadamard", problem.dim);
  expect.tensor("out", args.out, {DType::f8e4m3, DType::f32}, {problem.tokens, problem.heads, problem.dim});
  expect.that(quantised || !problem.ue8m0, "ue8m0", "be false with an f32 out", "true");
  expect.that(!quantised || problem.scale || problem.gate, "scale", "be given with an f8e4m3 out, or gate",
              "neither");
  if (problem.scale) {
    expect.that(quantised, "scale", "not be given with an f32 out", args.scale);
    expect.tensor("scale", args.scale, {DType::f32}, {problem.tokens, problem.heads});
  }
  if (problem.gate) expect.tensor("gate", args.gate, {DType::f32}, {problem.tokens, problem.heads});
  expect.that(std::isfinite(args.softmax_scale), "softmax_scale", "be finite", args.softmax_scale);
  return problem;
}

}  // namespace

extern const OpInfo index_query_prepare_info;
const OpInfo index_query_prepare_info = make_op_info("rotation and quantisation of index queries in one",
                                                     IndexQueryPrepareProblem{}, kImplementations);

void index_query_prepare(const IndexQueryPrepareArgs& args, const Context& context) {
  dispatch(kImplementations, validate, args, context);
}

}  // namespace fathom
