#include "fathom/ops/mqa_logits.hpp"

#include "ops/dispatch.hpp"
#include "ops/mqa_logits/mqa_logits_impl.hpp"
#include "ops/sm90_mqa.hpp"
#include "ops/validate.hpp"

namespace fathom {
namespace {

using Impl = Implementation<MqaLogitsProblem, MqaLogitsArgs>;

constexpr Impl kImplementations[] = {
    {"sm90:wgmma", mqa_logits_sm90_can_run, mqa_logits_sm90, /*fallback=*/false, DeviceKind::cuda},
    {"cuda:simt", always, mqa_logits_simt, /*fallback=*/true, DeviceKind::cuda},
    {"cpu:simd", always, mqa_logits_cpu},
    {"ref:any", always, mqa_logits_ref, /*fallback=*/true},
};

}  // namespace

MqaLogitsProblem mqa_logits_validate(const MqaLogitsArgs& args, Device device) {
  const Expect expect{MqaLogitsProblem::op, device};
  expect.rank("q", args.q, 3);
  expect.rank("k", args.k, 2);
  MqaLogitsProblem problem{.tokens = args.q.size(0),
                           .keys = args.k.size(0),
                           .heads = args.q.size(1),
                           .head_dim = args.q.size(2),
                           .q = args.q.dtype};
  expect.tensor("q", args.q, {DType::f8e4m3, DType::f32}, {-1, -1, -1});
  expect.at_least("heads", problem.heads, 1);
  expect.at_least("head_dim", problem.head_dim, 1);
  expect.tensor("k", args.k, {problem.q}, {-1, problem.head_dim});
  if (problem.q == DType::f8e4m3) {
    expect.tensor("k_scale", args.k_scale, {DType::f32}, {problem.keys});
    expect.contiguous("k_scale", args.k_scale);
  } else {
    expect.that(!args.k_scale.given(), "k_scale", "be left out with f32 keys", args.k_scale);
  }
  expect.tensor("weights", args.weights, {DType::f32}, {problem.tokens, problem.heads});
  expect.tensor("first", args.first, {DType::i32}, {problem.tokens});
  expect.tensor("last", args.last, {DType::i32}, {problem.tokens});
  expect.tensor("logits", args.logits, {DType::f32}, {problem.tokens, problem.keys});
  problem.aligned = on_host(device) || suits_sm90_mqa(args.q, args.weights, args.k);
  return problem;
}

extern const OpInfo mqa_logits_info;
const OpInfo mqa_logits_info =
    make_op_info("indexer scores over a ragged batch", MqaLogitsProblem{}, kImplementations);

void mqa_logits(const MqaLogitsArgs& args, const Context& context) {
  dispatch(kImplementations, mqa_logits_validate, args, context);
}

}  // namespace fathom
