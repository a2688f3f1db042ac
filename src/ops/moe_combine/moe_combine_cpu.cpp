// moe_combine with vectors. Compiled once for every vector target; see src/cpu/simd.hpp.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/moe_combine/moe_combine_cpu.cpp"
#include <hwy/foreach_target.h>
// must follow foreach_target.h
#include "cpu/simd.hpp"
#include "ops/moe_combine/moe_combine_impl.hpp"

HWY_BEFORE_NAMESPACE();
namespace fathom::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Columns [begin, end) of token t, kVectors at a time: the slots are walked once for all of them.
template <int kVectors>
std::int64_t CombineColumns(const MoeCombineProblem& problem, const MoeCombineArgs& args, std::int64_t t,
                            std::int64_t begin, std::int64_t end) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const std::int32_t* rows = args.slot_to_row.as<std::int32_t>() + t * args.slot_to_row.step(0);
  const float* weights = args.weights.as<float>() + t * args.weights.step(0);
  const std::int64_t out = t * args.out.step(0);
  std::int64_t column = begin;
  // The last vector of a row may be short; it goes alone.
  for (; kVectors == 1 ? column < end : column + kVectors * lanes <= end; column += kVectors * lanes) {
    hn::Vec<decltype(d)> sum[kVectors];
    for (auto& s : sum) s = hn::Zero(d);
    for (std::int64_t slot = 0; slot < problem.top_k; ++slot) {
      if (rows[slot] < 0) continue;
      const auto weight = hn::Set(d, weights[slot]);
      const std::int64_t y = rows[slot] * args.y.step(0) + column;
      for (int v = 0; v < kVectors; ++v) {
        sum[v] =
            hn::MulAdd(weight, LoadFloats(d, args.y.data, problem.y, y + v * lanes, end - column), sum[v]);
      }
    }
    for (int v = 0; v < kVectors; ++v) {
      const std::int64_t at = out + column + v * lanes;
      if (problem.accumulate) {
        sum[v] = hn::Add(LoadFloats(d, args.out.data, problem.out, at, end - column), sum[v]);
      }
      StoreFloats(d, sum[v], args.out.data, problem.out, at, end - column);
    }
  }
  return column;
}

void MoeCombine(const MoeCombineProblem& problem, const MoeCombineArgs& args, std::int64_t t,
                std::int64_t begin, std::int64_t end) {
  const std::int64_t column = CombineColumns<4>(problem, args, t, begin, end);
  CombineColumns<1>(problem, args, t, column, end);
}

}  // namespace fathom::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fathom {
HWY_EXPORT(MoeCombine);

void moe_combine_cpu(const MoeCombineProblem& problem, const MoeCombineArgs& args, const Context& context) {
  const auto combine = HWY_DYNAMIC_DISPATCH(MoeCombine);
  constexpr std::int64_t kColumns = 1024;  // of one piece
  constexpr std::int64_t kElementsPerTask = 1 << 16;
  const std::int64_t pieces = (problem.dim + kColumns - 1) / kColumns;
  const std::int64_t cost = std::min(problem.dim, kColumns) * (problem.top_k + 1);
  const std::int64_t grain = std::max<std::int64_t>(1, kElementsPerTask / std::max<std::int64_t>(1, cost));
  const auto run = [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t first = i % pieces * kColumns;
      combine(problem, args, i / pieces, first, std::min(problem.dim, first + kColumns));
    }
  };
  if (problem.tokens * pieces <= grain) return run(0, problem.tokens * pieces);
  context.parallel_for(problem.tokens * pieces, grain, run);
}
}  // namespace fathom
#endif
