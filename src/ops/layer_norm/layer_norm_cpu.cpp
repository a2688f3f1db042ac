// layer_norm with vectors. Compiled once for every vector target; see src/cpu/simd.hpp.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/layer_norm/layer_norm_cpu.cpp"
#include <hwy/foreach_target.h>
// must follow foreach_target.h
#include <cmath>

#include "cpu/simd.hpp"
#include "ops/layer_norm/layer_norm_impl.hpp"

HWY_BEFORE_NAMESPACE();
namespace fathom::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

void LayerNormRows(const LayerNormProblem& problem, const LayerNormArgs& args, std::int64_t begin,
                   std::int64_t end) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const std::int64_t dim = problem.dim;
  const float count = static_cast<float>(dim);
  for (std::int64_t t = begin; t < end; ++t) {
    const std::int64_t x_row = t * args.x.step(0);
    const std::int64_t out_row = t * args.out.step(0);
    auto sum = hn::Zero(d);
    for (std::int64_t i = 0; i < dim; i += lanes) {
      sum = hn::Add(sum, LoadFloats(d, args.x.data, problem.x, x_row + i, dim - i));
    }
    const auto mean = hn::Set(d, hn::GetLane(hn::SumOfLanes(d, sum)) / count);
    auto squares = hn::Zero(d);
    for (std::int64_t i = 0; i < dim; i += lanes) {
      const auto x = LoadFloats(d, args.x.data, problem.x, x_row + i, dim - i);
      // Lanes beyond the row read as zero, which is not the mean.
      const auto inside = hn::FirstN(d, static_cast<std::size_t>(std::min(lanes, dim - i)));
      const auto distance = hn::IfThenElseZero(inside, hn::Sub(x, mean));
      squares = hn::MulAdd(distance, distance, squares);
    }
    const float variance = hn::GetLane(hn::SumOfLanes(d, squares)) / count;
    const auto scale = hn::Set(d, 1.0f / std::sqrt(variance + args.epsilon));
    for (std::int64_t i = 0; i < dim; i += lanes) {
      const auto x = LoadFloats(d, args.x.data, problem.x, x_row + i, dim - i);
      const auto weight = LoadFloats(d, args.weight.data, problem.weight, i, dim - i);
      const auto bias = LoadFloats(d, args.bias.data, problem.weight, i, dim - i);
      const auto normal = hn::Mul(hn::Sub(x, mean), scale);
      StoreFloats(d, hn::MulAdd(normal, weight, bias), args.out.data, problem.out, out_row + i, dim - i);
    }
  }
}

}  // namespace fathom::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fathom {
HWY_EXPORT(LayerNormRows);

void layer_norm_cpu(const LayerNormProblem& problem, const LayerNormArgs& args, const Context& context) {
  const auto rows = HWY_DYNAMIC_DISPATCH(LayerNormRows);
  constexpr std::int64_t kElementsPerTask = 1 << 15;
  const std::int64_t grain = std::max<std::int64_t>(1, kElementsPerTask / problem.dim);
  if (problem.tokens <= grain) return rows(problem, args, 0, problem.tokens);
  context.parallel_for(problem.tokens, grain,
                       [&](std::int64_t begin, std::int64_t end) { rows(problem, args, begin, end); });
}
}  // namespace fathom
#endif
