#include "fathom/ops/top_k.hpp"

#include "ops/cache_layout.hpp"
#include "ops/dispatch.hpp"
#include "ops/top_k/top_k_impl.hpp"

namespace fathom {
namespace {

using Impl = Implementation<TopKProblem, TopKArgs>;

constexpr Impl kImplementations[] = {
    {"sm90:cluster", top_k_sm90_can_run, top_k_sm90, /*fallback=*/false, DeviceKind::cuda},
    {"cuda:simt", always, top_k_simt, /*fallback=*/false, DeviceKind::cuda},
    {"cpu:simd", always, top_k_cpu},
    {"ref:any", always, top_k_ref, /*fallback=*/true},
};

std::int64_t request_of(const TopKArgs& args, std::int64_t rows, std::int64_t row) {
  if (args.requests.given()) return integer_at(args.requests, row);
  return row / (rows / args.block_table.size(0));
}

void expect_transform(const Expect& expect, const TopKArgs& args, std::int64_t rows) {
  const bool paged = args.transform == TopKTransform::paged;
  const bool ragged = args.transform == TopKTransform::ragged;
  if (paged) {
    expect.that(is_page_size(args.page), "page", "be 16, 32, 64 or 128", args.page);
    expect.tensor("block_table", args.block_table, {DType::i32}, {-1, -1});
    const std::int64_t requests = args.block_table.size(0);
    if (args.requests.given()) {
      expect.tensor("requests", args.requests, {DType::i32}, {rows});
    } else if (rows > 0) {
      expect.that(requests > 0 && rows % requests == 0, "block_table",
                  "have a number of rows that divides " + std::to_string(rows), args.block_table);
    }
  } else {
    expect.that(!args.block_table.given() && !args.requests.given(), "block_table",
                "and 'requests' be left out unless the transform is paged", "given");
  }
  if (ragged) {
    expect.tensor("offsets", args.offsets, {DType::i32}, {rows});
  } else {
    expect.that(!args.offsets.given(), "offsets", "be left out unless the transform is ragged", "given");
  }
}

void expect_rows(const Expect& expect, const TopKProblem& problem, const TopKArgs& args) {
  for (std::int64_t r = 0; r < problem.rows; ++r) {
    const auto place = [r] { return " at [" + std::to_string(r) + "]"; };
    const std::int64_t length = std::max<std::int64_t>(integer_at(args.lengths, r), 0);
    const std::int64_t start = args.starts.given() ? integer_at(args.starts, r) : 0;
    if (length > problem.k && !args.scores.given()) {
      expect.fail("scores", "be given if a length exceeds k", std::to_string(length) + place());
    }
    if (length > 0 && args.scores.given() && (start < 0 || start + length > problem.n)) {
      expect.fail("lengths", "keep the range within " + std::to_string(problem.n) + " scores",
                  std::to_string(start) + " + " + std::to_string(length) + place());
    }
    if (problem.transform != TopKTransform::paged) continue;
    const std::int64_t request = request_of(args, problem.rows, r);
    if (request < 0 || request >= args.block_table.size(0)) {
      expect.fail("requests", "be rows of the block table, below " + std::to_string(args.block_table.size(0)),
                  std::to_string(request) + place());
    }
    const std::int64_t limit = args.block_table.size(1) * problem.page;
    if (length > limit) {
      expect.fail("lengths",
                  "be at most " + std::to_string(problem.page) + " * max_pages = " + std::to_string(limit),
                  std::to_string(length) + place());
    }
  }
}

}  // namespace

TopKProblem top_k_validate(const TopKArgs& args, Device device) {
  const Expect expect{TopKProblem::op, device};
  expect.rank("out", args.out, 2);
  const TopKProblem problem{.rows = args.out.size(0),
                            .n = args.scores.given() && args.scores.rank == 2 ? args.scores.size(1) : 0,
                            .k = args.out.size(1),
                            .transform = args.transform,
                            .page = args.page};
  expect.tensor("out", args.out, {DType::i32}, {-1, -1});
  expect.at_least("k", problem.k, 1);
  if (args.scores.given()) expect.tensor("scores", args.scores, {DType::f32}, {problem.rows, -1});
  expect.tensor("lengths", args.lengths, {DType::i32}, {problem.rows});
  if (args.starts.given()) expect.tensor("starts", args.starts, {DType::i32}, {problem.rows});
  expect_transform(expect, args, problem.rows);
  if (on_host(device)) expect_rows(expect, problem, args);
  return problem;
}

std::string_view to_string(TopKTransform transform) {
  switch (transform) {
    case TopKTransform::plain:
      return "plain";
    case TopKTransform::paged:
      return "paged";
    case TopKTransform::ragged:
      return "ragged";
  }
  __builtin_unreachable();
}

bool parse_enum(std::string_view text, TopKTransform& transform) {
  for (const auto candidate : {TopKTransform::plain, TopKTransform::paged, TopKTransform::ragged}) {
    if (text != to_string(candidate)) continue;
    transform = candidate;
    return true;
  }
  return false;
}

TopKWriter::TopKWriter(const TopKProblem& problem, const TopKArgs& args, std::int64_t row) {
  if (problem.transform == TopKTransform::paged) {
    page_ = problem.page;
    table_ = args.block_table.as<const std::int32_t>() +
             request_of(args, problem.rows, row) * args.block_table.step(0);
  } else if (problem.transform == TopKTransform::ragged) {
    offset_ = integer_at(args.offsets, row);
  }
}

extern const OpInfo top_k_info;
const OpInfo top_k_info =
    make_op_info("positions of the k largest scores of every row", TopKProblem{}, kImplementations);

void top_k(const TopKArgs& args, const Context& context) {
  dispatch(kImplementations, top_k_validate, args, context);
}

}  // namespace fathom
