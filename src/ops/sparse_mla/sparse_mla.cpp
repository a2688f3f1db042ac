#include "fathom/ops/sparse_mla.hpp"

#include <cmath>

#include "ops/cache_layout.hpp"
#include "ops/dispatch.hpp"
#include "ops/sm90_mqa.hpp"
#include "ops/sparse_mla/sparse_mla_impl.hpp"

namespace fathom {
namespace {

using Impl = Implementation<SparseMlaProblem, SparseMlaArgs>;

constexpr Impl kImplementations[] = {
    {"sm90:wgmma", sparse_mla_sm90_can_run, sparse_mla_sm90, /*fallback=*/false, DeviceKind::cuda},
    {"cuda:simt", sparse_mla_simt_can_run, sparse_mla_simt, /*fallback=*/true, DeviceKind::cuda},
    {"cpu:simd", always, sparse_mla_cpu},
    {"ref:any", always, sparse_mla_ref, /*fallback=*/true},
};

void expect_indices(const Expect& expect, const SparseMlaArgs& args) {
  const TensorView& indices = args.indices;
  const std::int64_t slots = args.cache.size(0);
  for (std::int64_t t = 0; t < indices.size(0); ++t) {
    const std::int64_t length = sparse_mla_length(args, t);
    expect.that(length >= 0 && length <= indices.size(1), "lengths", "be from 0 to top_k", length);
    const auto* row = indices.as<const std::int32_t>() + t * indices.step(0);
    bool bad = false;
    for (std::int64_t j = 0; j < length; ++j) bad |= row[j] < -1 || row[j] >= slots;
    if (!bad) continue;
    std::int64_t j = 0;
    while (row[j] >= -1 && row[j] < slots) ++j;
    expect.fail("indices", "hold slots from -1 to " + std::to_string(slots - 1),
                std::to_string(row[j]) + " at [" + std::to_string(t) + "," + std::to_string(j) + "]");
  }
}

SparseMlaProblem validate(const SparseMlaArgs& args, Device device) {
  const Expect expect{SparseMlaProblem::op, device};
  expect.rank("q", args.q, 3);
  expect.rank("out", args.out, 3);
  expect.rank("indices", args.indices, 2);
  SparseMlaProblem problem{.tokens = args.q.size(0),
                           .heads = args.q.size(1),
                           .lora = args.out.size(2),
                           .rope_dim = args.q.size(2) - args.out.size(2),
                           .top_k = args.indices.size(1),
                           .q = args.q.dtype,
                           .cache = args.cache.dtype,
                           .out = args.out.dtype,
                           .decode = args.decode};
  expect.tensor("q", args.q, {DType::f32, DType::bf16}, {-1, -1, -1});
  expect.at_least("lora", problem.lora, 1);
  expect.that(problem.rope_dim >= 0, "q", "be at least as wide as out", args.q);
  expect.dtype("cache", args.cache, {DType::f32, DType::bf16, DType::u8});
  const bool quantised = problem.cache == DType::u8;
  expect.that(!quantised || problem.lora % 128 == 0, "out", "have a multiple of 128 columns with a u8 cache",
              args.out);
  expect.tensor("cache", args.cache, {DType::f32, DType::bf16, DType::u8},
                {-1, quantised ? mla_cache_entry_bytes(problem.lora, problem.rope_dim)
                               : problem.lora + problem.rope_dim});
  expect.tensor("indices", args.indices, {DType::i32}, {problem.tokens, -1});
  expect.tensor("out", args.out, {DType::f32, DType::bf16}, {problem.tokens, problem.heads, problem.lora});
  if (args.lengths.given()) expect.tensor("lengths", args.lengths, {DType::i32}, {problem.tokens});
  if (args.sink.given()) expect.tensor("sink", args.sink, {DType::f32}, {problem.heads});
  if (args.lse.given()) expect.tensor("lse", args.lse, {DType::f32}, {problem.tokens, problem.heads});
  expect.that(std::isfinite(args.softmax_scale), "softmax_scale", "be finite", args.softmax_scale);
  if (on_host(device)) expect_indices(expect, args);
  problem.aligned = on_host(device) || suits_bulk_copies(args.cache);
  return problem;
}

}  // namespace

extern const OpInfo sparse_mla_info;
const OpInfo sparse_mla_info = make_op_info("latent attention of every token over its own list of slots",
                                            SparseMlaProblem{}, kImplementations);

void sparse_mla(const SparseMlaArgs& args, const Context& context) {
  dispatch(kImplementations, validate, args, context);
}

}  // namespace fathom
