// Compiled once for every vector target; see src/cpu/simd.hpp.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/silu_mul/silu_mul_cpu.cpp"
#include <hwy/foreach_target.h>
// must follow foreach_target.h
#include "cpu/silu.hpp"
#include "cpu/simd.hpp"
#include "ops/silu_mul/silu_mul_impl.hpp"

HWY_BEFORE_NAMESPACE();
namespace fathom::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <bool kClamp>
HWY_INLINE void SiluMulClampedRows(const SiluMulProblem& problem, const SiluMulArgs& args, float clamp_limit,
                                   std::int64_t begin, std::int64_t end) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto limit = hn::Set(d, clamp_limit);
  const std::int64_t dim = problem.dim;
  for (std::int64_t r = begin; r < end; ++r) {
    const std::int64_t gate_row = r * args.gate_up.step(0);
    const std::int64_t out_row = r * args.out.step(0);
    for (std::int64_t i = 0; i < dim; i += lanes) {
      const auto gate = LoadFloats(d, args.gate_up.data, problem.gate_up, gate_row + i, dim - i);
      const auto up = LoadFloats(d, args.gate_up.data, problem.gate_up, gate_row + dim + i, dim - i);
      StoreFloats(d, SiluMul<kClamp>(d, gate, up, limit), args.out.data, problem.out, out_row + i, dim - i);
    }
  }
}

void SiluMulRows(const SiluMulProblem& problem, const SiluMulArgs& args, float limit, std::int64_t begin,
                 std::int64_t end) {
  if (problem.clamp) {
    SiluMulClampedRows<true>(problem, args, limit, begin, end);
  } else {
    SiluMulClampedRows<false>(problem, args, limit, begin, end);
  }
}

}  // namespace fathom::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fathom {
HWY_EXPORT(SiluMulRows);

void silu_mul_cpu(const SiluMulProblem& problem, const SiluMulArgs& args, const Context& context) {
  const auto rows = HWY_DYNAMIC_DISPATCH(SiluMulRows);
  float limit = args.clamp_limit.value_or(0);
  if (problem.gate_up == DType::bf16) limit = bf16_to_float(float_to_bf16(limit));
  constexpr std::int64_t kElementsPerTask = 1 << 14;
  const std::int64_t rows_per_task = std::max<std::int64_t>(1, kElementsPerTask / problem.dim);
  if (problem.rows <= rows_per_task) return rows(problem, args, limit, 0, problem.rows);
  context.parallel_for(problem.rows, rows_per_task,
                       [&](std::int64_t begin, std::int64_t end) { rows(problem, args, limit, begin, end); });
}
}  // namespace fathom
#endif
