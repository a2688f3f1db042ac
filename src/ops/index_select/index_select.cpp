#include "fathom/ops/index_select.hpp"

#include <algorithm>

#include "ops/index_select/index_select_impl.hpp"
#include "ops/mqa_logits/mqa_logits_impl.hpp"
#include "ops/paged_mqa_logits/paged_mqa_logits_impl.hpp"
#include "ops/top_k/top_k_impl.hpp"
#include "ops/validate.hpp"

namespace fathom {
namespace {

using Impl = Implementation<IndexSelectProblem, IndexSelectArgs>;

constexpr Impl kImplementations[] = {
    {"cuda:chain", always, index_select_chain, /*fallback=*/false, DeviceKind::cuda},
    {"cpu:chain", always, index_select_chain},
    {"ref:any", always, index_select_ref, /*fallback=*/true},
};

// Rows [begin, end) of a tensor that may have been left out.
TensorView rows_of(const TensorView& tensor, std::int64_t begin, std::int64_t end) {
  return tensor.given() ? tensor.rows(begin, end) : tensor;
}

IndexSelectProblem validate(const IndexSelectArgs& args, Device device) {
  const Expect expect{IndexSelectProblem::op, device};
  const bool paged = args.q.rank == 4;
  if (!paged) expect.rank("q", args.q, 3);
  expect.rank("out", args.out, 2);
  expect.tensor("workspace", args.workspace, {DType::f32}, {-1, -1});
  IndexSelectProblem problem{.rows = paged ? args.q.size(0) * args.q.size(1) : args.q.size(0),
                             .next_n = paged ? args.q.size(1) : 1,
                             .heads = args.q.size(args.q.rank - 2),
                             .head_dim = args.q.size(args.q.rank - 1),
                             .columns = args.workspace.size(1),
                             .k = args.out.size(1),
                             .q = args.q.dtype,
                             .paged = paged,
                             .page = args.page,
                             .transform = args.transform,
                             .chunk = args.workspace.size(0)};
  expect.at_least("next_n", problem.next_n, 1);
  expect.that(problem.rows == 0 || problem.chunk >= problem.next_n, "workspace",
              "have a row for each token of a request", args.workspace);
  expect.tensor("out", args.out, {DType::i32}, {problem.rows, -1});
  expect.tensor("lengths", args.lengths, {DType::i32}, {problem.rows});
  const bool needs_table = problem.transform == TopKTransform::paged;
  expect.that(paged || needs_table || !args.block_table.given(), "block_table",
              "be left out of a ragged call unless the transform is paged", args.block_table);
  expect.that(!paged || !args.requests.given(), "requests", "be left out of a paged call", args.requests);
  expect.that(paged || !needs_table || args.requests.given(), "requests", "be given", "nothing");

  // All rows at once, as far as the ops can see: that nothing is written if one of them refuses.
  TensorView scores = args.workspace;
  scores.shape[0] = problem.rows;
  if (paged) {
    problem.page =
        paged_mqa_logits_validate(index_select_paged(problem, args, 0, problem.rows, scores), device).page;
  } else {
    mqa_logits_validate(index_select_ragged(args, 0, problem.rows, scores), device);
  }
  top_k_validate(index_select_top_k(problem, args, 0, problem.rows, scores), device);
  return problem;
}

}  // namespace

MqaLogitsArgs index_select_ragged(const IndexSelectArgs& args, std::int64_t begin, std::int64_t end,
                                  const TensorView& scores) {
  return {.q = args.q.rows(begin, end),
          .k = args.k,
          .k_scale = args.k_scale,
          .weights = rows_of(args.weights, begin, end),
          .first = rows_of(args.first, begin, end),
          .last = rows_of(args.last, begin, end),
          .logits = scores};
}

PagedMqaLogitsArgs index_select_paged(const IndexSelectProblem& problem, const IndexSelectArgs& args,
                                      std::int64_t begin, std::int64_t end, const TensorView& scores) {
  const std::int64_t n = problem.next_n;
  const TensorView& lens = args.context_lens;
  // Of all rows: lengths of another shape could have that of a chunk.
  const bool native = lens.rank == 2 && lens.size(0) * n == problem.rows && lens.size(1) == n;
  const std::int64_t table_rows =
      args.block_table.rank == 2 && args.block_table.size(0) == problem.rows ? n : 1;
  return {.q = args.q.rows(begin / n, end / n),
          .cache = args.cache,
          .weights = rows_of(args.weights, begin, end),
          .context_lens = native ? lens.rows(begin / n, end / n) : TensorView{},
          .block_table = rows_of(args.block_table, begin / n * table_rows, end / n * table_rows),
          .schedule = {},
          .logits = scores,
          .row_lens = native ? TensorView{} : args.lengths.rows(begin, end)};
}

TopKArgs index_select_top_k(const IndexSelectProblem& problem, const IndexSelectArgs& args,
                            std::int64_t begin, std::int64_t end, const TensorView& scores) {
  TopKArgs result{.scores = scores,
                  .lengths = args.lengths.rows(begin, end),
                  .starts = problem.paged ? TensorView{} : rows_of(args.first, begin, end),
                  .transform = problem.transform,
                  .offsets = rows_of(args.offsets, begin, end),
                  .out = args.out.rows(begin, end),
                  .page = problem.page};
  if (problem.transform != TopKTransform::paged) return result;
  result.requests = rows_of(args.requests, begin, end);
  result.block_table =
      problem.paged ? index_select_paged(problem, args, begin, end, scores).block_table : args.block_table;
  return result;
}

std::int64_t index_select_chunk(const IndexSelectProblem& problem, std::int64_t bytes) {
  const std::int64_t fit = bytes / (4 * std::max<std::int64_t>(problem.columns, 1));
  const std::int64_t n = std::max<std::int64_t>(problem.next_n, 1);
  return std::clamp(fit / n * n, n, std::max(problem.rows, n));
}

void index_select_chain(const IndexSelectProblem& problem, const IndexSelectArgs& args,
                        const Context& context) {
  const std::int64_t chunk = problem.chunk / problem.next_n * problem.next_n;
  for (std::int64_t begin = 0; begin < problem.rows; begin += chunk) {
    const std::int64_t end = std::min(begin + chunk, problem.rows);
    const TensorView scores = args.workspace.rows(0, end - begin);
    if (problem.paged) {
      paged_mqa_logits(index_select_paged(problem, args, begin, end, scores), context);
    } else {
      mqa_logits(index_select_ragged(args, begin, end, scores), context);
    }
    top_k(index_select_top_k(problem, args, begin, end, scores), context);
  }
}

extern const OpInfo index_select_info;
const OpInfo index_select_info =
    make_op_info("the indexer's scores and the choice among them, in chunks of rows", IndexSelectProblem{},
                 kImplementations);

void index_select(const IndexSelectArgs& args, const Context& context) {
  dispatch(kImplementations, validate, args, context);
}

}  // namespace fathom
