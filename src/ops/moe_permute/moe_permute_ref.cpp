// The oracle of moe_permute: one pass over all slots for every group.
#include <cstring>

#include "ops/moe_permute/moe_permute_impl.hpp"

namespace fathom {
namespace {
// Copies row `from` of a matrix to row `to` of another, element by element: any strides.
void copy_row(const TensorView& source, std::int64_t from, const TensorView& target, std::int64_t to) {
  const auto size = static_cast<std::size_t>(size_of(source.dtype));
  const bool masked = target.rank == 3;
  const std::int64_t row = masked
                               ? to / target.size(1) * target.step(0) + to % target.size(1) * target.step(1)
                               : to * target.step(0);
  for (std::int64_t i = 0; i < source.size(1); ++i) {
    const std::int64_t in = from * source.step(0) + i * source.step(1);
    const std::int64_t out = row + i * target.step(target.rank - 1);
    std::memcpy(target.as<std::byte>() + static_cast<std::size_t>(out) * size,
                source.as<std::byte>() + static_cast<std::size_t>(in) * size, size);
  }
}

std::int32_t& entry(const TensorView& t, std::int64_t i) { return t.as<std::int32_t>()[i * t.step(0)]; }
}  // namespace

void moe_permute_ref(const MoePermuteProblem& problem, const MoePermuteArgs& args, const Context&) {
  const auto slot = [](const TensorView& t, std::int64_t token, std::int64_t s) -> std::int32_t& {
    return t.as<std::int32_t>()[token * t.step(0) + s];
  };
  if (args.row_to_group.given()) {
    for (std::int64_t r = 0; r < problem.rows; ++r) entry(args.row_to_group, r) = -1;
  }
  std::int64_t begin = 0;
  for (std::int64_t g = 0; g < problem.groups; ++g) {
    if (problem.masked) begin = g * problem.rows;
    std::int64_t row = begin;
    for (std::int64_t t = 0; t < problem.tokens; ++t) {
      for (std::int64_t s = 0; s < problem.top_k; ++s) {
        if (slot(args.ids, t, s) < 0) slot(args.slot_to_row, t, s) = -1;
        if (slot(args.ids, t, s) != g) continue;
        copy_row(args.x, t, args.out, row);
        if (problem.scales > 0) copy_row(args.x_scale, t, args.out_scale, row);
        if (args.row_to_group.given()) entry(args.row_to_group, row) = static_cast<std::int32_t>(g);
        slot(args.slot_to_row, t, s) = static_cast<std::int32_t>(row);
        ++row;
      }
    }
    if (args.offsets.given()) entry(args.offsets, g) = static_cast<std::int32_t>(begin);
    if (args.masked_m.given()) entry(args.masked_m, g) = static_cast<std::int32_t>(row - begin);
    begin = (row + problem.alignment - 1) / problem.alignment * problem.alignment;
  }
  if (args.offsets.given()) entry(args.offsets, problem.groups) = static_cast<std::int32_t>(begin);
}

}  // namespace fathom
