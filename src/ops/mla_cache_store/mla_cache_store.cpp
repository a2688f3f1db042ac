#include "fathom/ops/mla_cache_store.hpp"

#include "ops/cache_layout.hpp"
#include "ops/dispatch.hpp"
#include "ops/mla_cache_store/mla_cache_store_impl.hpp"

namespace fathom {
namespace {

using Impl = Implementation<MlaCacheStoreProblem, MlaCacheStoreArgs>;

constexpr Impl kImplementations[] = {
    {"cuda:simt", always, mla_cache_store_simt, /*fallback=*/false, DeviceKind::cuda},
    {"cpu:simd", always, mla_cache_store_cpu},
    {"ref:any", always, mla_cache_store_ref, /*fallback=*/true},
};

MlaCacheStoreProblem validate(const MlaCacheStoreArgs& args, Device device) {
  const Expect expect{MlaCacheStoreProblem::op, device};
  expect.rank("latent", args.latent, 2);
  expect.rank("rope", args.rope, 2);
  const MlaCacheStoreProblem problem{.tokens = args.latent.size(0),
                                     .lora = args.latent.size(1),
                                     .rope_dim = args.rope.size(1),
                                     .latent = args.latent.dtype,
                                     .rope = args.rope.dtype,
                                     .slots = args.slots.dtype,
                                     .cache = args.cache.dtype};
  expect.tensor("latent", args.latent, {DType::f32, DType::bf16}, {-1, -1});
  expect.at_least("lora", problem.lora, 1);
  expect.tensor("rope", args.rope, {DType::f32, DType::bf16}, {problem.tokens, -1});
  expect_mla_cache(expect, args.cache, problem.lora, problem.rope_dim);
  expect.tensor("slots", args.slots, {DType::i32, DType::i64}, {problem.tokens});
  expect_slots(expect, args.slots, args.cache.size(0));
  return problem;
}

}  // namespace

extern const OpInfo mla_cache_store_info;
const OpInfo mla_cache_store_info =
    make_op_info("stores tokens in the latent key-value cache", MlaCacheStoreProblem{}, kImplementations);

void mla_cache_store(const MlaCacheStoreArgs& args, const Context& context) {
  dispatch(kImplementations, validate, args, context);
}

}  // namespace fathom
