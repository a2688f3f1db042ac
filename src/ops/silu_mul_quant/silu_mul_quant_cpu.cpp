// Compiled once for every vector target; see src/cpu/simd.hpp.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/silu_mul_quant/silu_mul_quant_cpu.cpp"
#include <hwy/foreach_target.h>
// must follow foreach_target.h
#include "cpu/group_quant.hpp"
#include "cpu/silu.hpp"
#include "cpu/simd.hpp"
#include "ops/silu_mul_quant/silu_mul_quant_impl.hpp"

HWY_BEFORE_NAMESPACE();
namespace fathom::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Outputs that are activated before they are quantised: a division and a maximum over one group alone would
// stall on their latency.
constexpr std::int64_t kChunk = 8 * kQuantGroup;

// v[0, n) = silu(gate) * up for outputs [begin, begin + n) of the row that starts at element `row`.
template <bool kClamp, class D>
HWY_INLINE void Activate(D d, const SiluMulQuantProblem& problem, const void* gate_up, std::int64_t row,
                         std::int64_t begin, std::int64_t n, float clamp_limit, float* HWY_RESTRICT v) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto limit = hn::Set(d, clamp_limit);
  for (std::int64_t i = 0; i < n; i += lanes) {
    const std::int64_t out = begin + i;
    // A vector never crosses a run of 8 gates, see RunTag.
    const std::int64_t gate_at = row + (problem.swizzled ? out / 8 * 16 + out % 8 : out);
    const std::int64_t up_at = gate_at + (problem.swizzled ? 8 : problem.dim);
    const auto gate = LoadFloats(d, gate_up, problem.gate_up, gate_at, n - i);
    const auto up = LoadFloats(d, gate_up, problem.gate_up, up_at, n - i);
    hn::Store(SiluMul<kClamp>(d, gate, up, limit), d, v + i);
  }
}

using RunTag = hn::CappedTag<float, 8>;

void SiluMulQuantRows(const SiluMulQuantProblem& problem, const SiluMulQuantArgs& args, std::int64_t expert,
                      float limit, std::int64_t begin, std::int64_t end) {
  const hn::ScalableTag<float> d;
  const TensorView gate_up = matrix_of(args.gate_up, expert);
  const TensorView q = matrix_of(args.q, expert);
  const ScaleWriter scales(args.scale, problem.scale_layout, scale_groups(problem.dim), expert);
  HWY_ALIGN float v[kChunk];
  for (std::int64_t r = begin; r < end; ++r) {
    const std::int64_t row = r * gate_up.step(0);
    for (std::int64_t at = 0; at < problem.dim; at += kChunk) {
      const std::int64_t n = std::min(kChunk, problem.dim - at);
      if (problem.swizzled) {
        if (problem.clamp) {
          Activate<true>(RunTag(), problem, gate_up.data, row, at, n, limit, v);
        } else {
          Activate<false>(RunTag(), problem, gate_up.data, row, at, n, limit, v);
        }
      } else if (problem.clamp) {
        Activate<true>(d, problem, gate_up.data, row, at, n, limit, v);
      } else {
        Activate<false>(d, problem, gate_up.data, row, at, n, limit, v);
      }
      QuantizeRow(d, QuantRule::silu_mul, problem.scale_format, v, n,
                  q.as<std::uint8_t>() + r * q.step(0) + at, scales, r, at / kQuantGroup);
    }
  }
}

}  // namespace fathom::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fathom {
HWY_EXPORT(SiluMulQuantRows);

void silu_mul_quant_cpu(const SiluMulQuantProblem& problem, const SiluMulQuantArgs& args,
                        const Context& context) {
  const auto rows = HWY_DYNAMIC_DISPATCH(SiluMulQuantRows);
  float limit = args.clamp_limit.value_or(0);
  if (problem.gate_up == DType::bf16) limit = bf16_to_float(float_to_bf16(limit));
  const bool masked = args.masked_m.given();
  const std::int32_t* masked_m = masked ? args.masked_m.as<std::int32_t>() : nullptr;

  // Rows [begin, end) of all valid rows, counted through the experts.
  const auto body = [&](std::int64_t begin, std::int64_t end) {
    if (!masked) return rows(problem, args, 0, limit, begin, end);
    std::int64_t first = 0;  // valid rows of the experts before e
    for (std::int64_t e = 0; e < problem.experts && first < end; ++e) {
      const std::int64_t m = masked_m[e];
      const std::int64_t from = std::max<std::int64_t>(begin - first, 0);
      const std::int64_t to = std::min(end - first, m);
      if (from < to) rows(problem, args, e, limit, from, to);
      first += m;
    }
  };
  std::int64_t total = problem.rows;
  if (masked) {
    total = 0;
    for (std::int64_t e = 0; e < problem.experts; ++e) total += masked_m[e];
  }
  constexpr std::int64_t kElementsPerTask = 1 << 14;
  const std::int64_t rows_per_task = std::max<std::int64_t>(1, kElementsPerTask / problem.dim);
  if (total <= rows_per_task) return body(0, total);
  context.parallel_for(total, rows_per_task, body);
}
}  // namespace fathom
#endif
