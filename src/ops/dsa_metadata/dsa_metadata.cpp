// dsa_metadata: checks, and how the outputs lie in one buffer.
#include "fathom/ops/dsa_metadata.hpp"

#include <algorithm>

#include "ops/cache_layout.hpp"
#include "ops/dispatch.hpp"
#include "ops/dsa_metadata/dsa_metadata_impl.hpp"
#include "ops/validate.hpp"

namespace fathom {
namespace {

using Impl = Implementation<DsaMetadataProblem, DsaMetadataArgs>;

constexpr Impl kImplementations[] = {
    {"cuda:simt", always, dsa_metadata_simt, /*fallback=*/false, DeviceKind::cuda},
    {"ref:any", always, dsa_metadata_ref},  // a few integers a row: no other form is worth having
};

constexpr ForwardMode kModes[] = {ForwardMode::extend, ForwardMode::decode, ForwardMode::target_verify,
                                  ForwardMode::draft_extend, ForwardMode::idle};

constexpr std::int64_t kPastI32 = std::int64_t{1} << 31;

// What no entry of a list of outputs may look like is written once: shape, dtype, contiguity.
void check_output(const Expect& expect, std::string_view name, const TensorView& view,
                  std::initializer_list<std::int64_t> shape) {
  expect.tensor(name, view, {DType::i32}, shape);
  expect.contiguous(name, view);
}

void check_absent(const Expect& expect, std::string_view name, const TensorView& view, ForwardMode mode) {
  expect.that(!view.given(), name, "be left out in mode " + std::string(to_string(mode)), "given");
}

void check_outputs(const Expect& expect, const DsaMetadataProblem& p, const DsaMetadata& out) {
  const bool extend = p.mode == ForwardMode::extend;
  check_output(expect, "cache_seqlens", out.cache_seqlens, {p.batch});
  check_output(expect, "cu_seqlens_q", out.cu_seqlens_q, {(extend ? p.batch : p.rows) + 1});
  check_output(expect, "cu_seqlens_k", out.cu_seqlens_k, {p.batch + 1});
  check_output(expect, "slots", out.slots, {p.rows});
  check_output(expect, "requests", out.requests, {p.rows});
  check_output(expect, "seqlens_expanded", out.seqlens_expanded, {p.rows});
  check_output(expect, "topk_lens", out.topk_lens, {p.rows});
  check_output(expect, "cu_topk_lens", out.cu_topk_lens, {p.rows + 1});
  for (const auto& [name, view] :
       {std::pair("ks", out.ks), std::pair("ke", out.ke), std::pair("score_ends", out.score_ends)}) {
    extend ? check_output(expect, name, view, {p.rows}) : check_absent(expect, name, view, p.mode);
  }
  if (out.block_table.given()) check_output(expect, "block_table", out.block_table, {p.batch, p.max_pages});
  if (out.row_block_table.given()) {
    expect.that(p.mode == ForwardMode::draft_extend && p.packed, "row_block_table",
                "be left out but in draft_extend with extend_lens", "given");
    check_output(expect, "row_block_table", out.row_block_table, {p.rows, p.max_pages});
  }
  if (!out.schedule.given()) return;
  if (extend) check_absent(expect, "schedule", out.schedule, p.mode);
  expect.at_least("workers", p.workers, 1);
  check_output(expect, "schedule", out.schedule, {p.workers + 1, 2});
}

void check_lengths(const Expect& expect, const DsaMetadataProblem& p, const DsaMetadataArgs& args) {
  const std::int64_t pages = kPastI32 / p.page_tokens;  // whose slots are i32
  std::int64_t rows = 0, keys = 0, chosen = 0;
  for (std::int64_t b = 0; b < p.batch; ++b) {
    const auto place = [b](std::int64_t value) {
      return std::to_string(value) + " at [" + std::to_string(b) + "]";
    };
    const std::int64_t prefix = integer_at(args.prefix_lens, b);
    const std::int64_t extend = p.packed ? integer_at(args.extend_lens, b) : p.next_n();
    const std::int64_t sequence = args.request_ids.given() ? integer_at(args.request_ids, b) : b;
    if (prefix < 0) continue;
    if (extend < 0) expect.fail("extend_lens", "be at least 0", place(extend));
    if ((rows += extend) > p.rows && p.packed)
      expect.fail("extend_lens", "fit " + std::to_string(p.rows) + " rows", std::to_string(rows) + " in all");
    if (sequence < 0 || sequence >= args.page_table.size(0)) {
      expect.fail("request_ids",
                  "be rows of the page table, below " + std::to_string(args.page_table.size(0)),
                  place(sequence));
    }
    if (prefix + extend > p.max_pages * p.page_tokens) {
      expect.fail(
          "page_table",
          "have pages for " + std::to_string(prefix + extend) + " tokens of request " + std::to_string(b),
          std::to_string(p.max_pages) + " pages of " + std::to_string(p.page_tokens));
    }
    for (std::int64_t page = prefix / p.page_tokens; page * p.page_tokens < prefix + extend; ++page) {
      if (const std::int32_t number = int_at(args.page_table, sequence, page); number < 0 || number >= pages)
        expect.fail("page_table", "hold pages from 0 to " + std::to_string(pages - 1) + " for the new tokens",
                    place(number));
    }
    keys += prefix + extend;
    for (std::int64_t i = 1; i <= extend; ++i) chosen += std::min(prefix + i, p.index_topk);
    if (keys >= kPastI32 || chosen >= kPastI32)
      expect.fail("prefix_lens", "have sums below 2^31", std::to_string(std::max(keys, chosen)));
  }
}

DsaMetadataProblem validate(const DsaMetadataArgs& args, Device device) {
  const Expect expect{DsaMetadataProblem::op, device};
  const DsaMetadata& out = args.out;
  expect.tensor("prefix_lens", args.prefix_lens, {DType::i32}, {-1});
  expect.tensor("page_table", args.page_table, {DType::i32}, {-1, -1});
  check_output(expect, "positions", out.positions, {-1});
  const DsaMetadataProblem problem{
      .mode = args.mode,
      .batch = args.prefix_lens.size(0),
      .rows = out.positions.size(0),
      .max_pages = args.page_table.size(1),
      .page_tokens = args.page_tokens,
      .index_topk = args.index_topk,
      .workers = out.schedule.given() ? out.schedule.size(0) - 1 : 0,
      .packed = args.extend_lens.given(),
      .tables = out.block_table.given() || out.row_block_table.given(),
  };
  expect.at_least("page_tokens", problem.page_tokens, 1);
  expect.that(problem.page_tokens < kPastI32, "page_tokens", "be below 2^31", problem.page_tokens);
  expect.at_least("index_topk", problem.index_topk, 1);
  if (problem.packed) expect.tensor("extend_lens", args.extend_lens, {DType::i32}, {problem.batch});
  if (args.request_ids.given()) {
    expect.tensor("request_ids", args.request_ids, {DType::i32}, {problem.batch});
  } else {
    expect.that(args.page_table.size(0) >= problem.batch, "page_table", "have a row of every request",
                args.page_table);
  }
  switch (problem.mode) {
    case ForwardMode::extend:
      expect.that(problem.packed, "extend_lens", "be given in mode extend", "nothing");
      break;
    case ForwardMode::decode:
      expect.that(problem.rows == problem.batch, "positions", "have one row for every request in mode decode",
                  problem.rows);
      [[fallthrough]];
    case ForwardMode::target_verify:
      check_absent(expect, "extend_lens", args.extend_lens, problem.mode);
      break;
    case ForwardMode::draft_extend:
      break;
    case ForwardMode::idle:
      expect.that(problem.batch == 0, "prefix_lens", "be empty in mode idle", problem.batch);
      break;
  }
  if (!problem.packed && problem.batch > 0) {
    expect.that(problem.rows % problem.batch == 0, "positions",
                "have as many rows for each of " + std::to_string(problem.batch) + " requests", problem.rows);
  }
  check_outputs(expect, problem, out);
  if (on_host(device)) check_lengths(expect, problem, args);
  return problem;
}

/// Hands out the outputs one after the other, each on 256 bytes.
struct Layout {
  TensorView buffer{};  // not given: only counts
  std::int64_t used = 0;

  TensorView take(std::initializer_list<std::int64_t> shape) {
    std::int64_t count = 1;
    for (const std::int64_t size : shape) count *= size;
    std::int32_t* at = buffer.given() ? buffer.as<std::int32_t>() + used : nullptr;
    used += (count + 63) / 64 * 64;
    return TensorView::contiguous(at, DType::i32, shape, buffer.device);
  }
  DsaMetadata outputs(const DsaMetadataProblem& p) {
    const bool extend = p.mode == ForwardMode::extend;
    DsaMetadata out{.cache_seqlens = take({p.batch}),
                    .cu_seqlens_q = take({(extend ? p.batch : p.rows) + 1}),
                    .cu_seqlens_k = take({p.batch + 1}),
                    .positions = take({p.rows}),
                    .slots = take({p.rows}),
                    .requests = take({p.rows}),
                    .seqlens_expanded = take({p.rows}),
                    .topk_lens = take({p.rows}),
                    .cu_topk_lens = take({p.rows + 1})};
    if (extend) {
      out.ks = take({p.rows});
      out.ke = take({p.rows});
      out.score_ends = take({p.rows});
    }
    if (p.tables) out.block_table = take({p.batch, p.max_pages});
    if (p.tables && p.packed && !extend) out.row_block_table = take({p.rows, p.max_pages});
    if (p.workers > 0 && !extend) out.schedule = take({p.workers + 1, 2});
    return out;
  }
};

}  // namespace

std::string_view to_string(ForwardMode mode) {
  switch (mode) {
    case ForwardMode::extend:
      return "extend";
    case ForwardMode::decode:
      return "decode";
    case ForwardMode::target_verify:
      return "target_verify";
    case ForwardMode::draft_extend:
      return "draft_extend";
    case ForwardMode::idle:
      return "idle";
  }
  __builtin_unreachable();
}

bool parse_enum(std::string_view text, ForwardMode& mode) {
  for (const ForwardMode candidate : kModes) {
    if (text != to_string(candidate)) continue;
    mode = candidate;
    return true;
  }
  return false;
}

std::int64_t dsa_metadata_size(const DsaMetadataProblem& problem) {
  Layout layout;
  (void)layout.outputs(problem);
  return layout.used;
}

DsaMetadata dsa_metadata_in(const DsaMetadataProblem& problem, const TensorView& buffer) {
  const Expect expect{DsaMetadataProblem::op, buffer.device};
  const std::int64_t size = dsa_metadata_size(problem);
  expect.tensor("buffer", buffer, {DType::i32}, {-1});
  expect.that(buffer.size(0) >= size, "buffer", "have at least " + std::to_string(size) + " elements",
              buffer.size(0));
  return Layout{.buffer = buffer}.outputs(problem);
}

extern const OpInfo dsa_metadata_info;
const OpInfo dsa_metadata_info = make_op_info("lengths, positions, slots, tables and schedule of a step",
                                              DsaMetadataProblem{}, kImplementations);

void dsa_metadata(const DsaMetadataArgs& args, const Context& context) {
  dispatch(kImplementations, validate, args, context);
}

}  // namespace fathom
