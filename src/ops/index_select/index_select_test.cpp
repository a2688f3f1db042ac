#include "fathom/ops/index_select.hpp"

#include <numeric>

#include "fathom/ops/index_key_store.hpp"
#include "ops/index_select/index_select_impl.hpp"
#include "ops/op_test.hpp"

namespace fathom {
namespace {

Tensor integers(std::int64_t count, auto value) {
  Tensor result(DType::i32, {count});
  for (std::int64_t i = 0; i < count; ++i) result.set(i, static_cast<double>(value(i)));
  return result;
}

// The positions with a workspace of each of these sizes; all the same, and those of whole rows of scores.
void check(const IndexSelectProblem& p, IndexSelectArgs args, const std::vector<std::int64_t>& chunks) {
  const Tensor scores = poisoned(DType::f32, {p.rows, p.columns});
  const Tensor whole = poisoned(DType::i32, {p.rows, p.k});
  if (p.paged) {
    paged_mqa_logits(index_select_paged(p, args, 0, p.rows, scores), test_context());
  } else {
    mqa_logits(index_select_ragged(args, 0, p.rows, scores), test_context());
  }
  args.out = whole;
  top_k(index_select_top_k(p, args, 0, p.rows, scores), test_context());
  for (const std::int64_t chunk : chunks) {
    SCOPED_TRACE(problem_string(p) + " by " + std::to_string(chunk));
    const Tensor workspace = poisoned(DType::f32, {chunk, p.columns + 3});
    const Tensor out = poisoned(DType::i32, {p.rows, p.k});
    args.workspace = workspace;
    args.workspace.shape[1] = p.columns;
    args.out = out;
    index_select(args, test_context());
    expect_same_bytes(out, whole);
  }
}

TEST(IndexSelect, RaggedIsTheSameInAnyChunks) {
  for (const DType type : {DType::f8e4m3, DType::f32}) {
    Random random(3);
    const std::int64_t rows = 11, keys = 300;
    const Tensor q = random.normal(type, {rows, 3, 64});
    const Tensor k = random.normal(type, {keys, 64});
    const Tensor scale = random.uniform(DType::f32, {keys}, 0.5, 1);
    const Tensor weights = random.normal(DType::f32, {rows, 3});
    const Tensor first = integers(rows, [](std::int64_t t) { return t % 3 * 7; });
    const Tensor lengths = integers(rows, [](std::int64_t t) { return t == 4 ? 0 : 30 + 20 * t; });
    const Tensor last = integers(rows, [&](std::int64_t t) { return first[t] + lengths[t]; });
    const Tensor offsets = integers(rows, [](std::int64_t t) { return 1000 * t; });
    const Tensor requests = integers(rows, [](std::int64_t t) { return t % 2; });
    const Tensor table = integers(2 * 20, [](std::int64_t i) { return i * 7 % 41; });
    IndexSelectProblem p{
        .rows = rows, .heads = 3, .head_dim = 64, .columns = keys, .k = 40, .q = type, .paged = false};
    IndexSelectArgs args{
        .q = q, .weights = weights, .k = k, .first = first, .last = last, .lengths = lengths};
    if (type == DType::f8e4m3) args.k_scale = scale;
    check(p, args, {1, 2, 5, 11, 20});
    args.transform = p.transform = TopKTransform::ragged;
    args.offsets = offsets;
    check(p, args, {3, 11});
    args.offsets = {};
    args.transform = p.transform = TopKTransform::paged;
    args.requests = requests;
    args.block_table = TensorView::contiguous(table.view().data, DType::i32, {2, 20});
    args.page = p.page = 16;
    check(p, args, {4, 11});
  }
}

TEST(IndexSelect, PagedIsTheSameInAnyChunks) {
  Random random(4);
  const std::int64_t batch = 4, next_n = 3, rows = 12, columns = 200, page = 32, pages = 30;
  const Tensor q = random.normal(DType::f8e4m3, {batch, next_n, 5, 32});
  const Tensor weights = random.normal(DType::f32, {rows, 5});
  const Tensor cache = poisoned(DType::u8, {pages, page * 36});
  index_key_store({.k = random.normal(DType::f32, {pages * page, 32}),
                   .slots = integers(pages * page, [](std::int64_t i) { return i; }),
                   .cache = cache},
                  test_context());
  const Tensor lengths = integers(rows, [](std::int64_t r) { return r / 3 == 2 ? r - 6 : 20 + 14 * r; });
  TensorView lens = TensorView::contiguous(lengths.view().data, DType::i32, {batch, next_n});
  const Tensor table = integers(batch * 7, [](std::int64_t i) { return i == 3 ? -1 : 29 - i; });
  const TensorView tables = TensorView::contiguous(table.view().data, DType::i32, {batch, 7});
  for (const TopKTransform transform : {TopKTransform::plain, TopKTransform::paged}) {
    const IndexSelectProblem p{.rows = rows,
                               .next_n = next_n,
                               .heads = 5,
                               .head_dim = 32,
                               .columns = columns,
                               .k = 33,
                               .page = page,
                               .transform = transform};
    const IndexSelectArgs args{.q = q,
                               .weights = weights,
                               .cache = cache,
                               .context_lens = lens,
                               .block_table = tables,
                               .lengths = lengths,
                               .transform = transform};
    check(p, args, {3, 4, 6, 11, 12, 40});
    IndexSelectArgs flat = args;  // lengths of another shape, that of a chunk
    flat.context_lens = lens.rows(0, 2);
    check(p, flat, {3, 6, 12});
    const Tensor got = poisoned(DType::i32, {rows, 33}), expected = poisoned(DType::i32, {rows, 33});
    const Tensor workspace = poisoned(DType::f32, {6, columns});
    flat.workspace = workspace;
    flat.out = got;
    index_select(flat, test_context());
    flat.context_lens = lens;
    flat.out = expected;
    index_select_ref(p, flat, test_context());
    expect_same_bytes(got, expected);
  }
}

TEST(IndexSelect, ABudgetHoldsWholeRequests) {
  const IndexSelectProblem p{.rows = 12, .next_n = 3, .columns = 1000};
  EXPECT_EQ(index_select_chunk(p, 4000), 3) << "one request at least";
  EXPECT_EQ(index_select_chunk(p, 4000 * 8), 6);
  EXPECT_EQ(index_select_chunk(p, std::int64_t{1} << 40), 12);
}

TEST(IndexSelect, RejectsBadArgumentsBeforeItWrites) {
  const Tensor q = poisoned(DType::f32, {4, 1, 2, 8});
  const Tensor weights = poisoned(DType::f32, {4, 2});
  const Tensor cache = poisoned(DType::f32, {3, 16, 8});
  const Tensor lengths = integers(4, [](std::int64_t r) { return r == 3 ? 33 : 10; });
  const Tensor table = integers(8, [](std::int64_t) { return 1; });
  const Tensor workspace = poisoned(DType::f32, {1, 40});
  const Tensor out = poisoned(DType::i32, {4, 5});
  IndexSelectArgs args{.q = q,
                       .weights = weights,
                       .cache = cache,
                       .block_table = TensorView::contiguous(table.view().data, DType::i32, {4, 2}),
                       .lengths = lengths,
                       .workspace = workspace,
                       .out = out};
  EXPECT_ERROR(InvalidArgument,
               "paged_mqa_logits: 'row_lens' must be at most 16 * max_pages = 32, got 33 in row 3",
               index_select(args, test_context()));
  expect_same_bytes(out, poisoned(DType::i32, {4, 5}));
  args.workspace = workspace.view().rows(0, 0);
  EXPECT_ERROR(InvalidArgument, "index_select: 'workspace' must have a row for each token of a request",
               index_select(args, test_context()));
  args.requests = lengths;
  args.workspace = workspace;
  EXPECT_ERROR(InvalidArgument, "'requests' must be left out of a paged call",
               index_select(args, test_context()));
}

}  // namespace
}  // namespace fathom
