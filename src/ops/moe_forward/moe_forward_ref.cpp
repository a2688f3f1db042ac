// The oracle of moe_forward: token by token, sums in double.
#include <algorithm>
#include <vector>

#include "ops/elements.hpp"
#include "ops/group_quant.hpp"
#include "ops/moe_forward/moe_forward_impl.hpp"
#include "ops/silu.hpp"

namespace fathom {
namespace {

using Row = std::vector<float>;

// The values of a quantised row, one after the other: e4m3 codes times their scales.
struct Quantised {
  Row codes;
  Row scales;
};

Quantised quantised(QuantRule rule, const Row& row) {
  const auto k = static_cast<std::int64_t>(row.size());
  std::vector<std::uint8_t> q(row.size());
  Quantised result;
  for (std::int64_t begin = 0; begin < k; begin += kQuantGroup) {
    const std::int64_t n = std::min(kQuantGroup, k - begin);
    const auto load = [&](std::int64_t i) { return row[static_cast<std::size_t>(begin + i)]; };
    result.scales.push_back(quantize_group(rule, ScaleFormat::f32, n, load, q.data() + begin));
  }
  for (const std::uint8_t code : q) result.codes.push_back(f8e4m3_to_float(code));
  return result;
}

double product(const Quantised& v, const TensorView& w, const TensorView& w_scale, std::int64_t j) {
  double sum = 0;
  const std::int64_t k = w.size(1);
  for (std::int64_t c = 0; c * kQuantGroup < k; ++c) {
    double block = 0;
    for (std::int64_t i = c * kQuantGroup; i < std::min(k, (c + 1) * kQuantGroup); ++i) {
      block += static_cast<double>(v.codes[static_cast<std::size_t>(i)]) * static_cast<double>(at(w, j, i));
    }
    sum += block * static_cast<double>(v.scales[static_cast<std::size_t>(c)]) *
           static_cast<double>(at(w_scale, j / kQuantGroup, c));
  }
  return sum;
}

float rounded(DType dtype, double value) {
  const auto single = static_cast<float>(value);
  return dtype == DType::bf16 ? bf16_to_float(float_to_bf16(single)) : single;
}

// total += weight * mlp(v), rounded to `inner` unless it is the shared expert's output
void add_mlp(const MoeForwardProblem& problem, const Quantised& v, const TensorView& gate_up,
             const TensorView& gate_up_scale, const TensorView& down, const TensorView& down_scale,
             double weight, DType rounding, std::vector<double>& total) {
  const std::int64_t width = down.size(1);
  Row activated;
  for (std::int64_t j = 0; j < width; ++j) {
    const float gate = rounded(problem.inner, product(v, gate_up, gate_up_scale, j));
    const float up = rounded(problem.inner, product(v, gate_up, gate_up_scale, width + j));
    activated.push_back(silu(gate) * up);
  }
  const Quantised h = quantised(QuantRule::silu_mul, activated);
  for (std::int64_t j = 0; j < down.size(0); ++j) {
    total[static_cast<std::size_t>(j)] +=
        weight * static_cast<double>(rounded(rounding, product(h, down, down_scale, j)));
  }
}

}  // namespace

void moe_forward_ref(const MoeForwardProblem& problem, const MoeForwardArgs& args, const Context&) {
  for (std::int64_t t = 0; t < problem.tokens; ++t) {
    Row x;
    std::vector<double> total;
    for (std::int64_t i = 0; i < problem.hidden; ++i) {
      x.push_back(at(args.x, t, i));
      total.push_back(problem.accumulate ? static_cast<double>(at(args.out, t, i)) : 0.0);
    }
    const Quantised v = quantised(QuantRule::per_token_group, x);
    if (problem.shared > 0) {
      add_mlp(problem, v, args.shared.gate_up, args.shared.gate_up_scale, args.shared.down,
              args.shared.down_scale, 1, problem.out, total);
    }
    for (std::int64_t s = 0; s < problem.top_k; ++s) {
      const std::int32_t id = args.ids.as<std::int32_t>()[t * args.ids.step(0) + s];
      if (id < 0) continue;
      const auto e = static_cast<std::size_t>(id);
      add_mlp(problem, v, args.gate_up[e], args.gate_up_scale[e], args.down[e], args.down_scale[e],
              static_cast<double>(at(args.weights, t, s)), problem.inner, total);
    }
    for (std::int64_t i = 0; i < problem.hidden; ++i)
      put(args.out, t, i, static_cast<float>(total[static_cast<std::size_t>(i)]));
  }
}

}  // namespace fathom
