// moe_permute: checks, and the choice of an implementation.
#include "fathom/ops/moe_permute.hpp"

#include <limits>
#include <vector>

#include "ops/dispatch.hpp"
#include "ops/grouped.hpp"
#include "ops/moe_permute/moe_permute_impl.hpp"
#include "ops/validate.hpp"

namespace fathom {
namespace {

using Impl = Implementation<MoePermuteProblem, MoePermuteArgs>;

// Best first for each device. The reference takes every valid problem, `cuda:simt` up to 5461 groups.
constexpr Impl kImplementations[] = {
    {"cuda:simt", moe_permute_simt_can_run, moe_permute_simt, /*fallback=*/false, DeviceKind::cuda},
    {"cpu:copy", always, moe_permute_cpu},
    {"ref:any", always, moe_permute_ref, /*fallback=*/true},
};

// Every id names a group, and the output holds all rows.
void check_ids(const Expect& expect, const MoePermuteProblem& problem, const MoePermuteArgs& args) {
  check_expert_ids(expect, args.ids, problem.groups);
  std::vector<std::int64_t> counts(static_cast<std::size_t>(problem.groups));
  for (std::int64_t t = 0; t < problem.tokens; ++t) {
    for (std::int64_t s = 0; s < problem.top_k; ++s) {
      const std::int32_t id = args.ids.as<std::int32_t>()[t * args.ids.step(0) + s];
      if (id >= 0) ++counts[static_cast<std::size_t>(id)];
    }
  }
  std::int64_t total = 0;
  for (std::int64_t g = 0; g < problem.groups; ++g) {
    const std::int64_t count = counts[static_cast<std::size_t>(g)];
    if (problem.masked && count > problem.rows) {
      expect.fail("out", "have " + std::to_string(count) + " rows for group " + std::to_string(g),
                  shape_string(args.out));
    }
    total += (count + problem.alignment - 1) / problem.alignment * problem.alignment;
  }
  if (!problem.masked && total > problem.rows) {
    expect.fail("out", "have " + std::to_string(total) + " rows", shape_string(args.out));
  }
}

void check_index(const Expect& expect, std::string_view name, const TensorView& tensor, std::int64_t size) {
  if (tensor.given()) expect.tensor(name, tensor, {DType::i32}, {size});
}

MoePermuteProblem validate(const MoePermuteArgs& args, Device device) {
  const Expect expect{MoePermuteProblem::op, device};
  expect.rank("ids", args.ids, 2);
  expect.rank("x", args.x, 2);
  if (args.out.rank != 2 && args.out.rank != 3)
    expect.fail("out", "have 2 or 3 axes", shape_string(args.out));
  const bool masked = args.out.rank == 3;
  const MoePermuteProblem problem{.tokens = args.ids.size(0),
                                  .top_k = args.ids.size(1),
                                  .groups = args.groups,
                                  .dim = args.x.size(1),
                                  .scales = args.x_scale.given() ? args.x_scale.size(1) : 0,
                                  .rows = args.out.size(masked ? 1 : 0),
                                  .alignment = args.alignment,
                                  .masked = masked,
                                  .x = args.x.dtype};
  expect.at_least("groups", problem.groups, 1);
  expect.at_least("alignment", problem.alignment, 1);
  if (masked && problem.alignment != 1) {
    expect.fail("alignment", "be 1 in the masked layout", std::to_string(problem.alignment));
  }
  expect.tensor("ids", args.ids, {DType::i32}, {-1, -1});
  expect.tensor("x", args.x, {args.x.dtype}, {problem.tokens, -1});
  expect.tensor("slot_to_row", args.slot_to_row, {DType::i32}, {problem.tokens, problem.top_k});
  const auto rows_of = [&](std::string_view name, const TensorView& tensor, DType dtype, std::int64_t width) {
    expect.dtype(name, tensor, {dtype});
    masked ? expect.shape(name, tensor, {problem.groups, problem.rows, width})
           : expect.shape(name, tensor, {problem.rows, width});
    expect.on_device(name, tensor);
  };
  rows_of("out", args.out, problem.x, problem.dim);
  expect.unit_stride("out", args.out);
  expect.that(args.x_scale.given() == args.out_scale.given(), "out_scale", "be given exactly if x_scale is",
              args.out_scale.given() ? "only out_scale" : "only x_scale");
  if (args.x_scale.given()) {
    expect.dtype("x_scale", args.x_scale, {DType::f32, DType::i32});
    expect.shape("x_scale", args.x_scale, {problem.tokens, -1});
    expect.on_device("x_scale", args.x_scale);
    rows_of("out_scale", args.out_scale, args.x_scale.dtype, problem.scales);
  }
  const std::int64_t all_rows = masked ? problem.groups * problem.rows : problem.rows;
  if (all_rows > std::numeric_limits<std::int32_t>::max()) {
    expect.fail("out", "have fewer than 2^31 rows", shape_string(args.out));
  }
  for (const auto& [name, tensor] :
       {std::pair("row_to_group", &args.row_to_group), {"offsets", &args.offsets}}) {
    if (masked && tensor->given())
      expect.fail(name, "be left out in the masked layout", shape_string(*tensor));
  }
  expect.that(!masked || args.masked_m.given(), "masked_m", "be given in the masked layout", "nothing");
  check_index(expect, "row_to_group", args.row_to_group, problem.rows);
  check_index(expect, "offsets", args.offsets, problem.groups + 1);
  check_index(expect, "masked_m", args.masked_m, problem.groups);
  if (device.kind == DeviceKind::host) check_ids(expect, problem, args);
  return problem;
}

}  // namespace

std::int64_t moe_permute_rows(std::int64_t tokens, std::int64_t top_k, std::int64_t groups,
                              std::int64_t alignment) {
  // Only groups that have a row are padded, and each by less than the alignment.
  const std::int64_t slots = tokens * top_k;
  const std::int64_t padded = slots < groups ? slots : groups;
  return (slots + padded * (alignment - 1)) / alignment * alignment;
}

std::int64_t moe_masked_rows(std::int64_t tokens) { return (tokens / 256 + 1) * 256; }

extern const OpInfo moe_permute_info;
const OpInfo moe_permute_info =
    make_op_info("brings the rows of every expert together", MoePermuteProblem{}, kImplementations);

void moe_permute(const MoePermuteArgs& args, const Context& context) {
  dispatch(kImplementations, validate, args, context);
}

}  // namespace fathom
