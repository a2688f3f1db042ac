// moe_permute in two passes: count and place the slots, then copy whole rows.
#include <algorithm>
#include <cstring>
#include <vector>

#include "ops/moe_permute/moe_permute_impl.hpp"

namespace fathom {
namespace {
std::byte* row_of(const TensorView& t, std::int64_t row) {
  const std::int64_t index =
      t.rank == 3 ? row / t.size(1) * t.step(0) + row % t.size(1) * t.step(1) : row * t.step(0);
  return t.as<std::byte>() + index * size_of(t.dtype);
}

// Scales are 4 bytes wide and may lie along columns.
void copy_scales(const TensorView& from, std::int64_t token, const TensorView& to, std::int64_t row) {
  const auto* source = reinterpret_cast<const std::int32_t*>(row_of(from, token));
  auto* target = reinterpret_cast<std::int32_t*>(row_of(to, row));
  const std::int64_t step = to.step(to.rank - 1);
  for (std::int64_t i = 0; i < from.size(1); ++i) target[i * step] = source[i * from.step(1)];
}

// slot_to_row and what describes the groups.
void place_slots(const MoePermuteProblem& problem, const MoePermuteArgs& args) {
  const auto groups = static_cast<std::size_t>(problem.groups);
  const auto ids_of = [&](std::int64_t t) { return args.ids.as<std::int32_t>() + t * args.ids.step(0); };
  std::vector<std::int32_t> next(groups);  // counts, then the next free row of every group
  for (std::int64_t t = 0; t < problem.tokens; ++t) {
    const std::int32_t* ids = ids_of(t);
    for (std::int64_t s = 0; s < problem.top_k; ++s) {
      if (ids[s] >= 0) ++next[static_cast<std::size_t>(ids[s])];
    }
  }
  const auto write = [](const TensorView& t, std::int64_t i, std::int64_t value) {
    if (t.given()) t.as<std::int32_t>()[i * t.step(0)] = static_cast<std::int32_t>(value);
  };
  std::int64_t begin = 0;
  for (std::int64_t g = 0; g < problem.groups; ++g) {
    if (problem.masked) begin = g * problem.rows;
    std::int32_t& place = next[static_cast<std::size_t>(g)];
    const std::int64_t count = place;
    const std::int64_t end = (begin + count + problem.alignment - 1) / problem.alignment * problem.alignment;
    write(args.offsets, g, begin);
    write(args.masked_m, g, count);
    for (std::int64_t r = begin; args.row_to_group.given() && r < end; ++r) {
      write(args.row_to_group, r, r < begin + count ? g : -1);
    }
    place = static_cast<std::int32_t>(begin);
    begin = end;
  }
  write(args.offsets, problem.groups, begin);
  for (std::int64_t r = begin; args.row_to_group.given() && r < problem.rows; ++r)
    write(args.row_to_group, r, -1);
  for (std::int64_t t = 0; t < problem.tokens; ++t) {
    const std::int32_t* ids = ids_of(t);
    std::int32_t* rows = args.slot_to_row.as<std::int32_t>() + t * args.slot_to_row.step(0);
    for (std::int64_t s = 0; s < problem.top_k; ++s) {
      rows[s] = ids[s] < 0 ? -1 : next[static_cast<std::size_t>(ids[s])]++;
    }
  }
}
}  // namespace

void moe_permute_cpu(const MoePermuteProblem& problem, const MoePermuteArgs& args, const Context& context) {
  place_slots(problem, args);
  const auto bytes = static_cast<std::size_t>(problem.dim * size_of(problem.x));
  const auto copy = [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const std::int32_t* rows = args.slot_to_row.as<std::int32_t>() + t * args.slot_to_row.step(0);
      for (std::int64_t s = 0; s < problem.top_k; ++s) {
        if (rows[s] < 0) continue;
        if (bytes > 0) std::memcpy(row_of(args.out, rows[s]), row_of(args.x, t), bytes);
        if (problem.scales > 0) copy_scales(args.x_scale, t, args.out_scale, rows[s]);
      }
    }
  };
  constexpr std::int64_t kBytesPerTask = 1 << 17;
  const std::int64_t work = std::max<std::int64_t>(1, problem.top_k * static_cast<std::int64_t>(bytes));
  const std::int64_t grain = std::max<std::int64_t>(1, kBytesPerTask / work);
  if (problem.tokens <= grain) return copy(0, problem.tokens);
  context.parallel_for(problem.tokens, grain, copy);
}

}  // namespace fathom
