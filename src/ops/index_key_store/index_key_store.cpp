#include "fathom/ops/index_key_store.hpp"

#include "ops/cache_layout.hpp"
#include "ops/dispatch.hpp"
#include "ops/index_key_store/index_key_store_impl.hpp"

namespace fathom {
namespace {

using Impl = Implementation<IndexKeyStoreProblem, IndexKeyStoreArgs>;

constexpr Impl kImplementations[] = {
    {"cuda:simt", always, index_key_store_simt, /*fallback=*/false, DeviceKind::cuda},
    {"cpu:simd", always, index_key_store_cpu},
    {"ref:any", always, index_key_store_ref, /*fallback=*/true},
};

IndexKeyStoreProblem validate(const IndexKeyStoreArgs& args, Device device) {
  const Expect expect{IndexKeyStoreProblem::op, device};
  expect.rank("k", args.k, 2);
  IndexKeyStoreProblem problem{.tokens = args.k.size(0),
                               .dim = args.k.size(1),
                               .k = args.k.dtype,
                               .slots = args.slots.dtype,
                               .cache = args.cache.dtype,
                               .ue8m0 = args.ue8m0};
  expect.tensor("k", args.k, {DType::f32, DType::bf16}, {-1, -1});
  expect.at_least("dim", problem.dim, 1);
  problem.page = expect_index_store(expect, args.cache, args.slots, problem.tokens, problem.dim, args.ue8m0);
  return problem;
}

}  // namespace

extern const OpInfo index_key_store_info;
const OpInfo index_key_store_info =
    make_op_info("stores index keys in their paged cache", IndexKeyStoreProblem{}, kImplementations);

void index_key_store(const IndexKeyStoreArgs& args, const Context& context) {
  dispatch(kImplementations, validate, args, context);
}

}  // namespace fathom
