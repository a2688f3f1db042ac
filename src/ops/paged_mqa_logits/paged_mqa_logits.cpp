#include "fathom/ops/paged_mqa_logits.hpp"

#include "ops/cache_layout.hpp"
#include "ops/dispatch.hpp"
#include "ops/paged_mqa_logits/paged_mqa_logits_impl.hpp"
#include "ops/paged_mqa_schedule/paged_mqa_schedule_impl.hpp"
#include "ops/sm90_mqa.hpp"

namespace fathom {
namespace {

using Impl = Implementation<PagedMqaLogitsProblem, PagedMqaLogitsArgs>;

constexpr Impl kImplementations[] = {
    {"sm90:wgmma", paged_mqa_logits_sm90_can_run, paged_mqa_logits_sm90, /*fallback=*/false,
     DeviceKind::cuda},
    {"cuda:simt", always, paged_mqa_logits_simt, /*fallback=*/true, DeviceKind::cuda},
    {"cpu:simd", always, paged_mqa_logits_cpu},
    {"ref:any", always, paged_mqa_logits_ref, /*fallback=*/true},
};

// Lengths fit the logits and the block table, and every page in use is one of the cache.
void expect_lengths(const Expect& expect, const PagedMqaLogitsProblem& problem,
                    const PagedMqaLogitsArgs& args) {
  const std::int64_t limit = args.block_table.size(1) * kIndexKeyPageTokens;
  for (std::int64_t b = 0; b < problem.batch; ++b) {
    const std::int64_t keys = scheduled_keys(args.context_lens, b);
    if (keys > problem.max_len || keys > limit) {
      const bool columns = problem.max_len < limit;
      expect.fail("context_lens",
                  columns ? "be at most " + std::to_string(problem.max_len) + ", the columns of logits"
                          : "be at most 64 * max_pages = " + std::to_string(limit),
                  std::to_string(keys) + " in row " + std::to_string(b));
    }
    expect_pages(expect, args.block_table, b, keys, args.cache.size(0));
  }
}

// The schedule is the one that paged_mqa_schedule makes of these lengths.
void expect_schedule(const Expect& expect, const PagedMqaLogitsArgs& args) {
  expect.tensor("schedule", args.schedule, {DType::i32}, {-1, 2});
  expect.contiguous("schedule", args.schedule);
  const std::int64_t workers = args.schedule.size(0) - 1;
  expect.at_least("workers", workers, 1);
  if (!on_host(expect.device)) return;  // nothing there reads it
  PagedMqaScheduleRows rows(args.context_lens, workers);
  for (std::int64_t w = 0; w <= workers; ++w) {
    const auto [request, split] = rows.next();
    if (int_at(args.schedule, w, 0) == request && int_at(args.schedule, w, 1) == split) continue;
    expect.fail("schedule",
                "be paged_mqa_schedule's for these context_lens: row " + std::to_string(w) + " (" +
                    std::to_string(request) + "," + std::to_string(split) + ")",
                "(" + std::to_string(int_at(args.schedule, w, 0)) + "," +
                    std::to_string(int_at(args.schedule, w, 1)) + ")");
  }
}

PagedMqaLogitsProblem validate(const PagedMqaLogitsArgs& args, Device device) {
  const Expect expect{PagedMqaLogitsProblem::op, device};
  expect.rank("q", args.q, 4);
  expect.rank("logits", args.logits, 2);
  PagedMqaLogitsProblem problem{.batch = args.q.size(0),
                                .next_n = args.q.size(1),
                                .heads = args.q.size(2),
                                .head_dim = args.q.size(3),
                                .max_len = args.logits.size(1),
                                .q = args.q.dtype};
  expect.tensor("q", args.q, {DType::f8e4m3, DType::f32}, {-1, -1, -1, -1});
  expect.at_least("heads", problem.heads, 1);
  expect.at_least("head_dim", problem.head_dim, 1);
  expect.dtype("cache", args.cache, {problem.q == DType::f8e4m3 ? DType::u8 : DType::f32});
  expect_index_cache(expect, args.cache, problem.head_dim);
  const std::int64_t rows = problem.batch * problem.next_n;
  expect.tensor("weights", args.weights, {DType::f32}, {rows, problem.heads});
  expect.tensor("context_lens", args.context_lens, {DType::i32}, {problem.batch, problem.next_n});
  expect.tensor("block_table", args.block_table, {DType::i32}, {problem.batch, -1});
  expect.tensor("logits", args.logits, {DType::f32}, {rows, -1});
  if (on_host(device)) expect_lengths(expect, problem, args);
  if (args.schedule.given()) expect_schedule(expect, args);
  problem.aligned = on_host(device) || (suits_bulk_copies(args.q) && suits_bulk_copies(args.weights) &&
                                        suits_bulk_copies(args.cache));
  return problem;
}

}  // namespace

extern const OpInfo paged_mqa_logits_info;
const OpInfo paged_mqa_logits_info =
    make_op_info("indexer scores over the paged cache", PagedMqaLogitsProblem{}, kImplementations);

void paged_mqa_logits(const PagedMqaLogitsArgs& args, const Context& context) {
  dispatch(kImplementations, validate, args, context);
}

}  // namespace fathom
