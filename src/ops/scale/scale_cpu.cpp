// Compiled once for every vector target; see src/cpu/simd.hpp.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/scale/scale_cpu.cpp"
#include <hwy/foreach_target.h>
// must follow foreach_target.h
#include <algorithm>

#include "cpu/simd.hpp"
#include "ops/scale/scale_impl.hpp"

// [doc:begin cpu]
HWY_BEFORE_NAMESPACE();
namespace fathom::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

void ScaleRows(const ScaleProblem& problem, const ScaleArgs& args, std::int64_t begin, std::int64_t end) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto factor = hn::Set(d, args.factor);
  for (std::int64_t r = begin; r < end; ++r) {
    const std::int64_t x_row = r * args.x.step(0);
    const std::int64_t out_row = r * args.out.step(0);
    for (std::int64_t i = 0; i < problem.dim; i += lanes) {
      const auto x = LoadFloats(d, args.x.data, problem.dtype, x_row + i, problem.dim - i);
      StoreFloats(d, hn::Mul(x, factor), args.out.data, problem.dtype, out_row + i, problem.dim - i);
    }
  }
}

}  // namespace fathom::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fathom {
HWY_EXPORT(ScaleRows);

void scale_cpu(const ScaleProblem& problem, const ScaleArgs& args, const Context& context) {
  const auto rows = HWY_DYNAMIC_DISPATCH(ScaleRows);
  constexpr std::int64_t kElementsPerTask = 1 << 15;
  context.parallel_for(problem.rows, kElementsPerTask / std::max<std::int64_t>(problem.dim, 1),
                       [&](std::int64_t begin, std::int64_t end) { rows(problem, args, begin, end); });
}
}  // namespace fathom
#endif
// [doc:end cpu]
