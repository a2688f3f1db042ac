#include <algorithm>
#include <array>

#include "ops/elements.hpp"
#include "ops/group_quant.hpp"
#include "ops/silu.hpp"
#include "ops/silu_mul_quant/silu_mul_quant_impl.hpp"

namespace fathom {
namespace {

void quantize_row(const SiluMulQuantProblem& problem, const TensorView& gate_up, const TensorView& q,
                  const ScaleWriter& scales, std::int64_t row, float limit) {
  std::array<float, kQuantGroup> v{};
  for (std::int64_t begin = 0; begin < problem.dim; begin += kQuantGroup) {
    const std::int64_t n = std::min(kQuantGroup, problem.dim - begin);
    for (std::int64_t i = 0; i < n; ++i) {
      const std::int64_t d = begin + i;
      const std::int64_t gate_at = problem.swizzled ? d / 8 * 16 + d % 8 : d;
      const std::int64_t up_at = gate_at + (problem.swizzled ? 8 : problem.dim);
      float gate = at(gate_up, row, gate_at);
      float up = at(gate_up, row, up_at);
      if (problem.clamp) {
        gate = clamp_gate(gate, limit);
        up = clamp_up(up, limit);
      }
      v[static_cast<std::size_t>(i)] = silu(gate) * up;
    }
    const auto load = [&](std::int64_t i) { return v[static_cast<std::size_t>(i)]; };
    std::uint8_t* out = q.as<std::uint8_t>() + row * q.step(0) + begin;
    scales.write(row, begin / kQuantGroup,
                 quantize_group(QuantRule::silu_mul, problem.scale_format, n, load, out));
  }
}

}  // namespace

void silu_mul_quant_ref(const SiluMulQuantProblem& problem, const SiluMulQuantArgs& args, const Context&) {
  float limit = args.clamp_limit.value_or(0);
  if (problem.gate_up == DType::bf16) limit = bf16_to_float(float_to_bf16(limit));
  const bool masked = args.masked_m.given();
  for (std::int64_t e = 0; e < (masked ? problem.experts : 1); ++e) {
    const ScaleWriter scales(args.scale, problem.scale_layout, scale_groups(problem.dim), e);
    const TensorView gate_up = matrix_of(args.gate_up, e);
    const TensorView q = matrix_of(args.q, e);
    const std::int64_t rows = masked ? args.masked_m.as<std::int32_t>()[e] : problem.rows;
    for (std::int64_t r = 0; r < rows; ++r) quantize_row(problem, gate_up, q, scales, r, limit);
  }
}

}  // namespace fathom
