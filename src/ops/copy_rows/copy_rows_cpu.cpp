// Compiled once for every vector target; see src/cpu/simd.hpp.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/copy_rows/copy_rows_cpu.cpp"
#include <hwy/foreach_target.h>
// must follow foreach_target.h
#include <cstring>

#include "cpu/simd.hpp"
#include "ops/copy_rows/copy_rows_impl.hpp"

HWY_BEFORE_NAMESPACE();
namespace fathom::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

void CopyRows(const CopyRowsProblem& problem, const CopyRowsArgs& args, std::int64_t begin,
              std::int64_t end) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const std::int64_t dim = problem.dim;
  const bool bytes = problem.x == problem.out && !problem.accumulate;
  const std::int64_t element = size_of(problem.x);
  for (std::int64_t t = begin; t < end; ++t) {
    for (std::int64_t h = 0; h < problem.heads; ++h) {
      const std::int64_t from = copy_rows_source(args, t) * args.x.step(0) + h * copy_rows_head_step(args.x);
      const std::int64_t to = t * args.out.step(0) + h * copy_rows_head_step(args.out);
      if (bytes) {
        std::memcpy(args.out.as<std::byte>() + to * element, args.x.as<std::byte>() + from * element,
                    static_cast<std::size_t>(dim * element));
        continue;
      }
      for (std::int64_t i = 0; i < dim; i += lanes) {
        auto value = LoadFloats(d, args.x.data, problem.x, from + i, dim - i);
        if (problem.accumulate)
          value = hn::Add(LoadFloats(d, args.out.data, problem.out, to + i, dim - i), value);
        StoreFloats(d, value, args.out.data, problem.out, to + i, dim - i);
      }
    }
  }
}

}  // namespace fathom::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fathom {
HWY_EXPORT(CopyRows);

void copy_rows_cpu(const CopyRowsProblem& problem, const CopyRowsArgs& args, const Context& context) {
  const auto rows = HWY_DYNAMIC_DISPATCH(CopyRows);
  constexpr std::int64_t kElementsPerTask = 1 << 16;
  const std::int64_t row = std::max<std::int64_t>(1, problem.heads * problem.dim);
  context.parallel_for(problem.tokens, kElementsPerTask / row,
                       [&](std::int64_t begin, std::int64_t end) { rows(problem, args, begin, end); });
}
}  // namespace fathom
#endif
