#include "fathom/ops/mla_prepare.hpp"

#include "ops/cache_layout.hpp"
#include "ops/dispatch.hpp"
#include "ops/mla_prepare/mla_prepare_impl.hpp"
#include "ops/validate.hpp"

namespace fathom {
namespace {

using Impl = Implementation<MlaPrepareProblem, MlaPrepareArgs>;

constexpr Impl kImplementations[] = {
    {"cuda:simt", always, mla_prepare_simt, /*fallback=*/false, DeviceKind::cuda},
    {"cpu:simd", always, mla_prepare_cpu},
    {"ref:any", always, mla_prepare_ref, /*fallback=*/true},
};

MlaPrepareProblem validate(const MlaPrepareArgs& args, Device device) {
  const Expect expect{MlaPrepareProblem::op, device};
  expect.rank("latent", args.latent, 2);
  expect.rank("cos_sin", args.cos_sin, 2);
  const bool queries = args.q.given();
  if (queries) expect.rank("q", args.q, 3);
  const MlaPrepareProblem problem{.tokens = args.latent.size(0),
                                  .lora = args.latent.size(1),
                                  .rope_dim = args.cos_sin.size(1),
                                  .heads = queries ? args.q.size(1) : 0,
                                  .style = args.style,
                                  .kv = args.latent.dtype,
                                  .weight = args.weight.dtype,
                                  .slots = args.slots.dtype,
                                  .cache = args.cache.dtype,
                                  .q = args.q.dtype,
                                  .q_out = args.q_out.dtype};
  expect.tensor("latent", args.latent, {DType::f32, DType::bf16}, {-1, -1});
  expect.at_least("lora", problem.lora, 1);
  expect.tensor("rope", args.rope, {problem.kv}, {problem.tokens, problem.rope_dim});
  expect.tensor("weight", args.weight, {DType::f32, DType::bf16}, {problem.lora});
  expect.that(args.epsilon > 0, "epsilon", "be positive", args.epsilon);
  expect_rotation(expect, args.positions, args.cos_sin, problem.tokens, problem.rope_dim, 0);
  expect_mla_cache(expect, args.cache, problem.lora, problem.rope_dim);
  expect.tensor("slots", args.slots, {DType::i32, DType::i64}, {problem.tokens});
  expect_slots(expect, args.slots, args.cache.size(0));
  expect.that(queries == args.q_out.given(), "q_out", "be given with q and only then", args.q_out);
  if (queries) {
    expect.tensor("q", args.q, {DType::f32, DType::bf16}, {problem.tokens, -1, problem.rope_dim});
    expect.tensor("q_out", args.q_out, {DType::f32, DType::bf16},
                  {problem.tokens, problem.heads, problem.rope_dim});
  }
  return problem;
}

}  // namespace

extern const OpInfo mla_prepare_info;
const OpInfo mla_prepare_info = make_op_info("norm, rotation and store of latent keys, rotation of queries",
                                             MlaPrepareProblem{}, kImplementations);

void mla_prepare(const MlaPrepareArgs& args, const Context& context) {
  dispatch(kImplementations, validate, args, context);
}

}  // namespace fathom
