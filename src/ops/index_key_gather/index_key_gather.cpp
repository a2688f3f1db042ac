#include "fathom/ops/index_key_gather.hpp"

#include "ops/cache_layout.hpp"
#include "ops/dispatch.hpp"
#include "ops/index_key_gather/index_key_gather_impl.hpp"

namespace fathom {
namespace {

using Impl = Implementation<IndexKeyGatherProblem, IndexKeyGatherArgs>;

constexpr Impl kImplementations[] = {
    {"cuda:simt", always, index_key_gather_simt, /*fallback=*/false, DeviceKind::cuda},
    {"ref:any", always, index_key_gather_ref},  // a copy: nothing to be won by another form
};

IndexKeyGatherProblem validate(const IndexKeyGatherArgs& args, Device device) {
  const Expect expect{IndexKeyGatherProblem::op, device};
  expect.rank("keys", args.keys, 2);
  expect.rank("lens", args.lens, 1);
  IndexKeyGatherProblem problem{.batch = args.lens.size(0),
                                .keys = args.keys.size(0),
                                .dim = args.keys.size(1),
                                .cache = args.cache.dtype};
  problem.page = expect_index_cache(expect, args.cache, problem.dim);
  const bool quantised = problem.cache == DType::u8;
  expect.tensor("keys", args.keys, {quantised ? DType::f8e4m3 : DType::f32}, {-1, -1});
  if (quantised) {
    expect.tensor("scales", args.scales, {DType::f32}, {problem.keys});
    expect.contiguous("scales", args.scales);
  } else {
    expect.that(!args.scales.given(), "scales", "be left out with an f32 cache", args.scales);
  }
  expect.tensor("lens", args.lens, {DType::i32}, {-1});
  expect.tensor("block_table", args.block_table, {DType::i32}, {problem.batch, -1});
  if (!on_host(device)) return problem;
  std::int64_t total = 0;
  for (std::int64_t b = 0; b < problem.batch; ++b) {
    const std::int64_t len = integer_at(args.lens, b);
    expect.at_least("lens", len, 0);
    const std::int64_t limit = args.block_table.size(1) * problem.page;
    if (len > limit) {
      expect.fail("lens",
                  "be at most " + std::to_string(problem.page) + " * max_pages = " + std::to_string(limit),
                  std::to_string(len) + " at [" + std::to_string(b) + "]");
    }
    expect_pages(expect, args.block_table, b, len, problem.page, args.cache.size(0));
    total += len;
  }
  expect.that(total == problem.keys, "keys", "have " + std::to_string(total) + " rows, the sum of lens",
              args.keys);
  return problem;
}

}  // namespace

extern const OpInfo index_key_gather_info;
const OpInfo index_key_gather_info =
    make_op_info("copies index keys out of their paged cache", IndexKeyGatherProblem{}, kImplementations);

void index_key_gather(const IndexKeyGatherArgs& args, const Context& context) {
  dispatch(kImplementations, validate, args, context);
}

}  // namespace fathom
