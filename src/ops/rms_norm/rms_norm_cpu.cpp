// Compiled once for every vector target; see src/cpu/simd.hpp.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/rms_norm/rms_norm_cpu.cpp"
#include <hwy/foreach_target.h>
// must follow foreach_target.h
#include <cmath>

#include "cpu/simd.hpp"
#include "ops/rms_norm/rms_norm_impl.hpp"

HWY_BEFORE_NAMESPACE();
namespace fathom::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

void RmsNormRows(const RmsNormProblem& problem, const RmsNormArgs& args, std::int64_t begin,
                 std::int64_t end) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const std::int64_t dim = problem.dim;
  for (std::int64_t t = begin; t < end; ++t) {
    const std::int64_t x_row = t * args.x.step(0);
    const std::int64_t out_row = t * args.out.step(0);
    auto squares = hn::Zero(d);
    for (std::int64_t i = 0; i < dim; i += lanes) {
      const auto x = LoadFloats(d, args.x.data, problem.x, x_row + i, dim - i);
      squares = hn::MulAdd(x, x, squares);
    }
    const float mean = hn::GetLane(hn::SumOfLanes(d, squares)) / static_cast<float>(dim);
    const auto scale = hn::Set(d, 1.0f / std::sqrt(mean + args.epsilon));
    for (std::int64_t i = 0; i < dim; i += lanes) {
      const auto x = LoadFloats(d, args.x.data, problem.x, x_row + i, dim - i);
      const auto weight = LoadFloats(d, args.weight.data, problem.weight, i, dim - i);
      StoreFloats(d, hn::Mul(hn::Mul(x, scale), weight), args.out.data, problem.out, out_row + i, dim - i);
    }
  }
}

}  // namespace fathom::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fathom {
HWY_EXPORT(RmsNormRows);

void rms_norm_cpu(const RmsNormProblem& problem, const RmsNormArgs& args, const Context& context) {
  const auto rows = HWY_DYNAMIC_DISPATCH(RmsNormRows);
  constexpr std::int64_t kElementsPerTask = 1 << 15;
  context.parallel_for(problem.tokens, kElementsPerTask / problem.dim,
                       [&](std::int64_t begin, std::int64_t end) { rows(problem, args, begin, end); });
}
}  // namespace fathom
#endif
