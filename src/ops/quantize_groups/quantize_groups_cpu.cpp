// Compiled once for every vector target; see src/cpu/simd.hpp.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/quantize_groups/quantize_groups_cpu.cpp"
#include <hwy/foreach_target.h>
// must follow foreach_target.h
#include "cpu/group_quant.hpp"
#include "ops/quantize_groups/quantize_groups_impl.hpp"

HWY_BEFORE_NAMESPACE();
namespace fathom::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class T>
HWY_INLINE void QuantizeRows(const QuantizeGroupsProblem& problem, const QuantizeGroupsArgs& args,
                             std::int64_t begin, std::int64_t end) {
  const hn::ScalableTag<float> d;
  const ScaleWriter scales(args.scale, problem.scale_layout, scale_groups(problem.k));
  for (std::int64_t t = begin; t < end; ++t) {
    QuantizeRow(d, problem.rule, problem.scale_format, args.x.as<T>() + t * args.x.step(0), problem.k,
                args.q.as<std::uint8_t>() + t * args.q.step(0), scales, t);
  }
}

void QuantizeGroupsRows(const QuantizeGroupsProblem& problem, const QuantizeGroupsArgs& args,
                        std::int64_t begin, std::int64_t end) {
  if (problem.x == DType::f32) {
    QuantizeRows<float>(problem, args, begin, end);
  } else {
    QuantizeRows<std::uint16_t>(problem, args, begin, end);
  }
}

}  // namespace fathom::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fathom {
HWY_EXPORT(QuantizeGroupsRows);

void quantize_groups_cpu(const QuantizeGroupsProblem& problem, const QuantizeGroupsArgs& args,
                         const Context& context) {
  const auto rows = HWY_DYNAMIC_DISPATCH(QuantizeGroupsRows);
  constexpr std::int64_t kElementsPerTask = 1 << 15;
  const std::int64_t rows_per_task = std::max<std::int64_t>(1, kElementsPerTask / problem.k);
  if (problem.tokens <= rows_per_task) return rows(problem, args, 0, problem.tokens);
  context.parallel_for(problem.tokens, rows_per_task,
                       [&](std::int64_t begin, std::int64_t end) { rows(problem, args, begin, end); });
}
}  // namespace fathom
#endif
