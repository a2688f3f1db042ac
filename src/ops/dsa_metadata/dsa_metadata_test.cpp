#include "ops/dsa_metadata/dsa_metadata_test.hpp"

#include "fathom/ops/paged_mqa_schedule.hpp"

namespace fathom {
namespace {

using Ints = std::vector<std::int32_t>;
Ints ints(const TensorView& view) {
  return {view.as<std::int32_t>(), view.as<std::int32_t>() + view.count()};
}
std::int32_t get(const TensorView& view, std::int64_t i) { return view.as<std::int32_t>()[i]; }

// Section 7 of the field's description: two requests of 10 and 4 tokens, four drafts each.
TEST(DsaMetadata, TargetVerifyByHand) {
  const DsaMetadataProblem p{.mode = ForwardMode::target_verify,
                             .batch = 2,
                             .rows = 8,
                             .max_pages = 2,
                             .index_topk = 4,
                             .workers = 2};
  const Tensor buffer = poisoned(DType::i32, {dsa_metadata_size(p)});
  const DsaMetadata out = dsa_metadata_in(p, buffer);
  dsa_metadata({.mode = p.mode,
                .prefix_lens = tensor_of<int>(DType::i32, {2}, {10, 62}),
                .page_table = tensor_of<int>(DType::i32, {3, 2}, {7, 3, 9, 9, 5, 0}),
                .request_ids = tensor_of<int>(DType::i32, {2}, {2, 0}),
                .index_topk = 4,
                .out = out},
               test_context());
  EXPECT_EQ(ints(out.cache_seqlens), (Ints{14, 66}));
  EXPECT_EQ(ints(out.seqlens_expanded), (Ints{11, 12, 13, 14, 63, 64, 65, 66}));
  EXPECT_EQ(ints(out.topk_lens), Ints(8, 4));
  EXPECT_EQ(ints(out.cu_topk_lens), (Ints{0, 4, 8, 12, 16, 20, 24, 28, 32}));
  EXPECT_EQ(ints(out.cu_seqlens_q), (Ints{0, 1, 2, 3, 4, 5, 6, 7, 8}));
  EXPECT_EQ(ints(out.cu_seqlens_k), (Ints{0, 14, 80}));
  EXPECT_EQ(ints(out.positions), (Ints{10, 11, 12, 13, 62, 63, 64, 65}));
  EXPECT_EQ(ints(out.slots), (Ints{330, 331, 332, 333, 510, 511, 192, 193}));  // pages 5, 7 and 3
  EXPECT_EQ(ints(out.requests), (Ints{0, 0, 0, 0, 1, 1, 1, 1}));
  EXPECT_EQ(ints(out.block_table), (Ints{5, -1, 7, 3}));
  EXPECT_EQ(ints(out.schedule), (Ints{0, 0, 1, 0, 2, 0}));
  EXPECT_FALSE(out.ks.given() || out.row_block_table.given());
}

TEST(DsaMetadata, ExtendByHand) {  // m = [3, 2], n = [10, 4]: two different running offsets
  const DsaMetadataProblem p{
      .mode = ForwardMode::extend, .batch = 3, .rows = 7, .max_pages = 1, .index_topk = 9, .packed = true};
  const Tensor buffer = poisoned(DType::i32, {dsa_metadata_size(p)});
  const DsaMetadata out = dsa_metadata_in(p, buffer);
  dsa_metadata({.mode = p.mode,
                .prefix_lens = tensor_of<int>(DType::i32, {3}, {7, -1, 2}),
                .extend_lens = tensor_of<int>(DType::i32, {3}, {3, 5, 2}),
                .page_table = tensor_of<int>(DType::i32, {3, 1}, {1, -1, 0}),
                .index_topk = 9,
                .out = out},
               test_context());
  EXPECT_EQ(ints(out.ks), (Ints{0, 0, 0, 10, 10, 0, 0}));
  EXPECT_EQ(ints(out.ke), (Ints{8, 9, 10, 13, 14, 0, 0}));
  EXPECT_EQ(ints(out.score_ends), (Ints{0, 0, 10, 10, 10, 0, 0}));  // only one row sees more than 9
  EXPECT_EQ(ints(out.seqlens_expanded), (Ints{8, 9, 10, 3, 4, 0, 0}));
  EXPECT_EQ(ints(out.requests), (Ints{0, 0, 0, 2, 2, 0, 0}));
  EXPECT_EQ(ints(out.slots), (Ints{71, 72, 73, 2, 3, -1, -1}));
  EXPECT_EQ(ints(out.positions), (Ints{7, 8, 9, 2, 3, 0, 0}));
  EXPECT_EQ(ints(out.cu_seqlens_q), (Ints{0, 3, 3, 5}));
  EXPECT_EQ(ints(out.cu_seqlens_k), (Ints{0, 10, 10, 14}));
  EXPECT_EQ(ints(out.cache_seqlens), (Ints{10, 0, 4}));
}

// Every output against a formula of its own, which looks at no other output.
void expect_formulas(const DsaStep& step, const DsaMetadata& out) {
  const DsaMetadataProblem& p = step.p;
  const auto prefix = [&](std::int64_t b) { return get(step.prefix_lens, b); };
  const auto share = [&](std::int64_t b) -> std::int64_t {
    return p.packed ? get(step.extend_lens, b) : p.next_n();
  };
  std::vector<std::pair<std::int64_t, std::int64_t>> rows;  // request and length
  std::int64_t keys = 0;
  Ints starts;
  for (std::int64_t b = 0; b < p.batch; ++b) {
    const bool real = prefix(b) >= 0;
    for (std::int64_t i = 0; (real || !p.packed) && i < share(b); ++i) {
      rows.emplace_back(b, real ? prefix(b) + i + 1 : 0);
      starts.push_back(real ? static_cast<std::int32_t>(keys) : 0);
    }
    const std::int64_t length = real ? prefix(b) + share(b) : 0;
    keys += length;
    EXPECT_EQ(get(out.cache_seqlens, b), length);
    EXPECT_EQ(get(out.cu_seqlens_k, b + 1), keys);
    if (p.mode == ForwardMode::extend) {
      EXPECT_EQ(get(out.cu_seqlens_q, b + 1), std::ssize(rows));
    }
    for (std::int64_t i = 0; p.tables && i < p.max_pages; ++i) {
      EXPECT_EQ(
          get(out.block_table, b * p.max_pages + i),
          i * p.page_tokens < length ? get(step.page_table, get(step.request_ids, b) * p.max_pages + i) : -1);
    }
  }
  EXPECT_LE(std::ssize(rows), p.rows);
  rows.resize(static_cast<std::size_t>(p.rows), {0, 0});
  starts.resize(rows.size(), 0);
  std::int64_t chosen = 0;
  for (std::int64_t r = 0; r < p.rows; ++r) {
    const auto [b, length] = rows[static_cast<std::size_t>(r)];
    const std::int64_t position = std::max<std::int64_t>(length - 1, 0);
    chosen += std::min(length, p.index_topk);
    EXPECT_EQ(get(out.requests, r), b);
    EXPECT_EQ(get(out.positions, r), position);
    EXPECT_EQ(get(out.seqlens_expanded, r), length);
    EXPECT_EQ(get(out.topk_lens, r), std::min(length, p.index_topk));
    EXPECT_EQ(get(out.cu_topk_lens, r + 1), chosen);
    const std::int64_t page =
        length == 0 ? -1
                    : get(step.page_table, get(step.request_ids, b) * p.max_pages + position / p.page_tokens);
    EXPECT_EQ(get(out.slots, r), length == 0 ? -1 : page * p.page_tokens + position % p.page_tokens);
    if (p.mode == ForwardMode::extend) {
      const std::int32_t start = starts[static_cast<std::size_t>(r)];
      EXPECT_EQ(get(out.ks, r), start);
      EXPECT_EQ(get(out.ke, r), start + length);
      EXPECT_EQ(get(out.score_ends, r), start + (length > p.index_topk ? length : 0));
    } else {
      EXPECT_EQ(get(out.cu_seqlens_q, r + 1), r + 1);
    }
    for (std::int64_t i = 0; out.row_block_table.given() && i < p.max_pages; ++i) {
      EXPECT_EQ(get(out.row_block_table, r * p.max_pages + i),
                length == 0 ? -1 : get(out.block_table, b * p.max_pages + i));
    }
  }
  if (!out.schedule.given()) return;
  Tensor lens(DType::i32, {p.paged_batch(), p.next_n()});
  for (std::int64_t r = 0; r < p.rows && p.batch > 0; ++r)
    lens.set(r, static_cast<double>(rows[static_cast<std::size_t>(r)].second));
  const Tensor schedule = poisoned(DType::i32, {p.workers + 1, 2});
  paged_mqa_schedule({.context_lens = lens, .schedule = schedule}, test_context());
  EXPECT_EQ(ints(out.schedule), ints(schedule));
}

TEST(DsaMetadata, IsWhatTheFormulasSay) {
  for (const DsaMetadataProblem& p : dsa_metadata_problems()) {
    SCOPED_TRACE(problem_string(p));
    const DsaStep step(p, p.rows + 1);
    const Tensor buffer = step.run(test_context());
    expect_formulas(step, dsa_metadata_in(p, buffer));
  }
}

// A step after another in the same buffer leaves nothing of it.
TEST(DsaMetadata, UpdatesInPlace) {
  for (const DsaMetadataProblem& p : dsa_metadata_problems()) {
    SCOPED_TRACE(problem_string(p));
    DsaStep step(p, p.rows + 2);
    const Tensor buffer = step.run(test_context());
    for (int i = 0; i < 3; ++i) {
      step.draw();
      dsa_metadata(step.args(dsa_metadata_in(p, buffer)), test_context());
      expect_same_bytes(buffer, step.run(test_context()));
    }
  }
}

TEST(DsaMetadata, RejectsBadArguments) {
  const DsaMetadataProblem p{.mode = ForwardMode::draft_extend, .batch = 2, .rows = 4, .packed = true};
  DsaStep step(p, 1);
  const Tensor buffer = poisoned(DType::i32, {dsa_metadata_size(p)});
  const auto set = [](const Tensor& tensor, std::int32_t first, std::int32_t second) {
    tensor.as<std::int32_t>()[0] = first;
    tensor.as<std::int32_t>()[1] = second;
  };
  const auto expect_error = [&](const std::string& text, const DsaMetadataArgs& args) {
    EXPECT_ERROR(InvalidArgument, "dsa_metadata: " + text, dsa_metadata(args, test_context()));
    expect_same_bytes(buffer, poisoned(DType::i32, {dsa_metadata_size(p)}));
  };
  const DsaMetadataArgs good = step.args(dsa_metadata_in(p, buffer));
  set(step.prefix_lens, 3, 0);
  set(step.extend_lens, 3, 2);
  expect_error("'extend_lens' must fit 4 rows, got 5 in all", good);
  set(step.extend_lens, -1, 2);
  expect_error("'extend_lens' must be at least 0, got -1 at [0]", good);
  set(step.extend_lens, 1, 1);
  set(step.prefix_lens, 64, 0);
  expect_error("'page_table' must have pages for 65 tokens of request 0, got 1 pages of 64", good);
  set(step.prefix_lens, 3, 0);
  set(step.request_ids, 0, 4);
  expect_error("'request_ids' must be rows of the page table, below 4, got 4 at [1]", good);
  set(step.request_ids, 0, 1);
  set(step.page_table, 5, -1);
  expect_error("'page_table' must hold pages from 0 to 33554431 for the new tokens, got -1 at [1]", good);
  set(step.page_table, 5, 1 << 25);
  expect_error("'page_table' must hold pages from 0 to 33554431 for the new tokens, got 33554432 at [1]",
               good);
  DsaMetadataArgs args = good;
  args.page_tokens = std::int64_t{1} << 62;
  expect_error("'page_tokens' must be below 2^31, got", args);
  args.page_tokens = 1 << 30;
  set(step.page_table, 0, 2);
  expect_error("'page_table' must hold pages from 0 to 1 for the new tokens, got 2 at [1]", args);
  set(step.page_table, 0, 1);
  set(step.prefix_lens, (1 << 30) - 1, (1 << 30) - 1);
  expect_error("'prefix_lens' must have sums below 2^31, got 2147483648", args);
  args = good;
  args.mode = ForwardMode::extend;
  expect_error("'cu_seqlens_q' must have shape [3], got [5]", args);
  args.mode = ForwardMode::decode;
  expect_error("'positions' must have one row for every request in mode decode, got 4", args);
  args.mode = ForwardMode::target_verify;
  expect_error("'extend_lens' must be left out in mode target_verify, got given", args);
  args.mode = ForwardMode::idle;
  expect_error("'prefix_lens' must be empty in mode idle, got 2", args);
  args = good;
  args.out.ks = args.out.slots;
  expect_error("'ks' must be left out in mode draft_extend, got given", args);
}

}  // namespace
}  // namespace fathom
