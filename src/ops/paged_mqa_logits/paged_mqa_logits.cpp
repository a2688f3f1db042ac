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
    {"sm90:flattened", paged_mqa_logits_sm90_flattened_can_run,
     paged_mqa_logits_flattened<paged_mqa_logits_sm90>,
     /*fallback=*/true, DeviceKind::cuda},
    {"cuda:simt", always, paged_mqa_logits_simt, /*fallback=*/true, DeviceKind::cuda},
    {"cpu:simd", paged_mqa_logits_native, paged_mqa_logits_cpu},
    {"cpu:flattened", always, paged_mqa_logits_flattened<paged_mqa_logits_cpu>, /*fallback=*/true},
    {"ref:any", always, paged_mqa_logits_ref, /*fallback=*/true},
};

// Lengths fit the logits and the block table, and every page in use is one of the cache.
void expect_lengths(const Expect& expect, const PagedMqaLogitsProblem& problem,
                    const PagedMqaLogitsArgs& args) {
  const std::int64_t limit = args.block_table.size(1) * problem.page;
  const TensorView lens = paged_mqa_lens(problem, args);
  const TensorView table = paged_mqa_table(problem, args);
  for (std::int64_t b = 0; b < problem.batch; ++b) {
    const std::int64_t keys = scheduled_keys(lens, b);
    if (keys > problem.max_len || keys > limit) {
      const bool columns = problem.max_len < limit;
      expect.fail(
          problem.flattened ? "row_lens" : "context_lens",
          columns ? "be at most " + std::to_string(problem.max_len) + ", the columns of logits"
                  : "be at most " + std::to_string(problem.page) + " * max_pages = " + std::to_string(limit),
          std::to_string(keys) + " in row " + std::to_string(b));
    }
    expect_pages(expect, table, b, keys, problem.page, args.cache.size(0));
  }
}

// The schedule is the one that paged_mqa_schedule makes of these lengths.
void expect_schedule(const Expect& expect, const PagedMqaLogitsProblem& problem,
                     const PagedMqaLogitsArgs& args) {
  expect.tensor("schedule", args.schedule, {DType::i32}, {-1, 2});
  expect.contiguous("schedule", args.schedule);
  const std::int64_t workers = args.schedule.size(0) - 1;
  expect.at_least("workers", workers, 1);
  if (!on_host(expect.device)) return;  // nothing there reads it
  TensorView lens = paged_mqa_lens(problem, args);
  if (problem.flattened) {  // [rows, 1]
    lens.shape = {problem.batch * problem.next_n, 1};
    lens.stride = {lens.step(1), 1};
  }
  PagedMqaScheduleRows rows(lens, workers);
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

}  // namespace

PagedMqaLogitsProblem paged_mqa_logits_validate(const PagedMqaLogitsArgs& args, Device device) {
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
  problem.page = expect_index_cache(expect, args.cache, problem.head_dim);
  const std::int64_t rows = problem.batch * problem.next_n;
  expect.tensor("weights", args.weights, {DType::f32}, {rows, problem.heads});
  if (args.row_lens.given()) expect.tensor("row_lens", args.row_lens, {DType::i32}, {rows});
  const TensorView& lens = args.context_lens;
  problem.flattened = lens.rank != 2 || lens.size(0) != problem.batch || lens.size(1) != problem.next_n;
  if (!problem.flattened || !args.row_lens.given())
    expect.tensor("context_lens", lens, {DType::i32}, {problem.batch, problem.next_n});
  const bool for_rows = args.block_table.rank == 2 && args.block_table.size(0) == rows;
  expect.tensor("block_table", args.block_table, {DType::i32}, {for_rows ? rows : problem.batch, -1});
  expect.tensor("logits", args.logits, {DType::f32}, {rows, -1});
  if (on_host(device)) expect_lengths(expect, problem, args);
  if (args.schedule.given()) expect_schedule(expect, problem, args);
  problem.aligned = on_host(device) || suits_sm90_mqa(args.q, args.weights, args.cache);
  return problem;
}

std::pair<PagedMqaLogitsProblem, PagedMqaLogitsArgs> paged_mqa_draft(const PagedMqaLogitsProblem& problem,
                                                                     const PagedMqaLogitsArgs& args,
                                                                     std::int64_t i) {
  // Rows i, i + next_n, ... of what has a row for each of logits.
  const auto every = [&](TensorView view) {
    view.data = view.as<std::byte>() + i * view.step(0) * size_of(view.dtype);
    view.shape[0] = problem.batch;
    view.stride[0] *= problem.next_n;
    return view;
  };
  // [batch, 1, ...] of [batch, next_n, ...]
  const auto column = [&](TensorView view) {
    view.data = view.as<std::byte>() + i * view.step(1) * size_of(view.dtype);
    view.shape[1] = 1;
    return view;
  };
  PagedMqaLogitsProblem draft = problem;
  draft.next_n = 1;
  draft.flattened = false;
  return {draft,
          {.q = column(args.q),
           .cache = args.cache,
           .weights = every(args.weights),
           .context_lens = column(paged_mqa_lens(problem, args)),
           .block_table = paged_mqa_table(problem, args),
           .schedule = {},
           .logits = every(args.logits),
           .row_lens = {}}};
}

Verdict paged_mqa_logits_native(const PagedMqaLogitsProblem& problem, const Context&) {
  return problem.flattened ? decline("needs context_lens of [batch, next_n], got row_lens") : accept;
}

extern const OpInfo paged_mqa_logits_info;
const OpInfo paged_mqa_logits_info =
    make_op_info("indexer scores over the paged cache", PagedMqaLogitsProblem{}, kImplementations);

void paged_mqa_logits(const PagedMqaLogitsArgs& args, const Context& context) {
  dispatch(kImplementations, paged_mqa_logits_validate, args, context);
}

}  // namespace fathom
