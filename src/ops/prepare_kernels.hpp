// The kernels that have a row of the indexer in a warp: one for every number of values a lane.
#pragma once
#include <bit>
#include <string>

#include "layout/prepare.cuh"
#include "ops/dispatch.hpp"
#include "ops/simt_kernel.hpp"

namespace fathom {

struct PreparePlan {
  std::int32_t each;  // values a lane, a power of two
  std::int32_t page;  // tokens of a page; 0: no pages
};
inline PreparePlan prepare_plan(std::int64_t dim, std::int64_t page = 0) {
  return {static_cast<std::int32_t>(std::bit_ceil(static_cast<std::uint64_t>((dim + 31) / 32))),
          static_cast<std::int32_t>(page)};
}

inline jit::Source prepare_source(const std::string& op, const std::string& args, std::size_t args_bytes,
                                  const PreparePlan& plan) {
  const std::string each = std::to_string(plan.each);
  const std::string page = std::to_string(plan.page);
  return simt_source({.name = op + ".simt_" + each + (plan.page != 0 ? "_p" + page : ""),
                      .header = "simt/prepare.cuh",
                      .function = "simt::" + op + "<" + each + (plan.page != 0 ? ", " + page : "") + ">",
                      .args = args,
                      .args_bytes = args_bytes,
                      .blocks = plan.each > 4 ? 2 : 4});
}

inline constexpr std::int64_t kMostPrepared = 32 * kMostLaneValues;

/// Rows of up to 512 values.
template <class Problem>
Verdict prepare_can_run(const Problem& problem, const Context&) {
  if (problem.dim <= kMostPrepared) return accept;
  return decline("needs a dim up to " + std::to_string(kMostPrepared) + ", got " +
                 std::to_string(problem.dim));
}

}  // namespace fathom
