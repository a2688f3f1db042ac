#include "fathom/ops/index_key_prepare.hpp"

#include <bit>

#include "ops/cache_layout.hpp"
#include "ops/dispatch.hpp"
#include "ops/index_key_prepare/index_key_prepare_impl.hpp"
#include "ops/validate.hpp"

namespace fathom {
namespace {

using Impl = Implementation<IndexKeyPrepareProblem, IndexKeyPrepareArgs>;

constexpr Impl kImplementations[] = {
    {"cuda:simt", index_key_prepare_simt_can_run, index_key_prepare_simt, /*fallback=*/false,
     DeviceKind::cuda},
    {"cpu:simd", always, index_key_prepare_cpu},
    {"ref:any", always, index_key_prepare_ref, /*fallback=*/true},
};

IndexKeyPrepareProblem validate(const IndexKeyPrepareArgs& args, Device device) {
  const Expect expect{IndexKeyPrepareProblem::op, device};
  expect.rank("k", args.k, 2);
  expect.rank("cos_sin", args.cos_sin, 2);
  IndexKeyPrepareProblem problem{.tokens = args.k.size(0),
                                 .dim = args.k.size(1),
                                 .rope_dim = args.cos_sin.size(1),
                                 .offset = args.offset,
                                 .style = args.style,
                                 .hadamard = args.hadamard,
                                 .k = args.k.dtype,
                                 .weight = args.weight.dtype,
                                 .slots = args.slots.dtype,
                                 .cache = args.cache.dtype,
                                 .ue8m0 = args.ue8m0};
  expect.tensor("k", args.k, {DType::f32, DType::bf16}, {-1, -1});
  expect.at_least("dim", problem.dim, 1);
  expect.tensor("weight", args.weight, {DType::f32, DType::bf16}, {problem.dim});
  expect.tensor("bias", args.bias, {problem.weight}, {problem.dim});
  expect.that(args.epsilon > 0, "epsilon", "be positive", args.epsilon);
  expect_rotation(expect, args.positions, args.cos_sin, problem.tokens, problem.dim, args.offset);
  expect.that(!args.hadamard || std::has_single_bit(static_cast<std::uint64_t>(problem.dim)), "dim",
              "be a power of two with hadamard", problem.dim);
  problem.page = expect_index_store(expect, args.cache, args.slots, problem.tokens, problem.dim, args.ue8m0);
  return problem;
}

}  // namespace

extern const OpInfo index_key_prepare_info;
const OpInfo index_key_prepare_info = make_op_info("layer norm, rotation and store of index keys in one",
                                                   IndexKeyPrepareProblem{}, kImplementations);

void index_key_prepare(const IndexKeyPrepareArgs& args, const Context& context) {
  dispatch(kImplementations, validate, args, context);
}

}  // namespace fathom
