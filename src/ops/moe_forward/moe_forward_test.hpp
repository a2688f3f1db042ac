// A random mixture of experts for the tests of moe_forward, on the host.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "fathom/ops/moe_forward.hpp"
#include "fathom/ops/quantization.hpp"
#include "ops/op_test.hpp"
#include "ops/silu.hpp"

namespace fathom {

struct MoeCase {
  MoeCase(const MoeForwardProblem& problem, std::int64_t seed)
      : p(problem),
        random(seed),
        x(random.normal(p.x, {p.tokens, p.hidden})),
        ids(DType::i32, {p.tokens, p.top_k}),
        weights(random.uniform(DType::f32, {p.tokens, p.top_k}, 0.05, 0.5)),
        base(random.normal(p.out, {p.tokens, p.hidden})),
        gate_up(random.normal(DType::f8e4m3, {p.experts, 2 * p.intermediate, p.hidden}, 8)),
        down(random.normal(DType::f8e4m3, {p.experts, p.hidden, p.intermediate}, 8)),
        gate_up_scale(scales(p.experts, 2 * p.intermediate, p.hidden)),
        down_scale(scales(p.experts, p.hidden, p.intermediate)),
        shared_gate_up(random.normal(DType::f8e4m3, {2 * p.shared, p.hidden}, 8)),
        shared_down(random.normal(DType::f8e4m3, {p.hidden, p.shared}, 8)),
        shared_gate_up_scale(scales(1, 2 * p.shared, p.hidden)),
        shared_down_scale(scales(1, p.hidden, p.shared)),
        workspace(poisoned(DType::u8, {most_workspace() + 256})) {
    for (std::int64_t t = 0; t < p.tokens; ++t) {  // distinct experts, and now and then none
      const std::int64_t first = random.integer(0, p.experts - 1);
      for (std::int64_t s = 0; s < p.top_k; ++s) {
        const bool none = p.top_k > p.experts || random.integer(0, 9) == 0;
        ids.set(t * p.top_k + s, none ? -1.0 : static_cast<double>((first + s) % p.experts));
      }
    }
    // Bytes of the workspace are NaN in every format.
    std::memset(workspace.as<std::byte>(), 0xff, static_cast<std::size_t>(workspace.count()));
  }

  /// The output of tokens [begin, end), all of them without an end.
  Tensor run(const Context& context, std::int64_t begin = 0, std::int64_t end = -1) {
    if (end < 0) end = p.tokens;
    Tensor out = poisoned(p.out, {end - begin, p.hidden});
    if (p.accumulate) {
      const std::int64_t row = p.hidden * size_of(p.out);
      std::memcpy(out.as<std::byte>(), base.as<std::byte>() + begin * row,
                  static_cast<std::size_t>((end - begin) * row));
    }
    moe_forward(args(x.view().rows(begin, end), ids.view().rows(begin, end), weights.view().rows(begin, end),
                     out, workspace),
                context);
    return out;
  }

  /// With weights that lie where this case keeps them, on the host.
  MoeForwardArgs args(const TensorView& some_x, const TensorView& some_ids, const TensorView& some_weights,
                      const TensorView& out, TensorView space) {
    const auto misplaced = reinterpret_cast<std::uintptr_t>(space.data) % 256;
    if (misplaced != 0) space.data = space.as<std::byte>() + (256 - misplaced);
    space.shape[0] = most_workspace();
    views = {split_groups(gate_up), split_groups(gate_up_scale), split_groups(down),
             split_groups(down_scale)};
    MoeForwardArgs result{.x = some_x,
                          .ids = some_ids,
                          .weights = some_weights,
                          .gate_up = views[0],
                          .gate_up_scale = views[1],
                          .down = views[2],
                          .down_scale = views[3],
                          .out = out,
                          .workspace = space,
                          .inner = p.inner,
                          .accumulate = p.accumulate,
                          .decode = p.decode,
                          .common = p.common,
                          .layout = p.layout};
    if (p.shared > 0) {
      result.shared = {.gate_up = shared_gate_up,
                       .gate_up_scale = split_groups(shared_gate_up_scale)[0],
                       .down = shared_down,
                       .down_scale = split_groups(shared_down_scale)[0]};
    }
    return result;
  }

  /// The mixture of the dequantised weights in double: nothing is rounded but the result.
  Tensor in_double() const {
    Tensor out(DType::f32, {p.tokens, p.hidden});
    for (std::int64_t t = 0; t < p.tokens; ++t) {
      std::vector<double> total(static_cast<std::size_t>(p.hidden));
      if (p.shared > 0)
        add_mlp(t, shared_gate_up, shared_gate_up_scale, shared_down, shared_down_scale, 0, p.shared, 1,
                total);
      for (std::int64_t s = 0; s < p.top_k; ++s) {
        const auto e = static_cast<std::int64_t>(ids[t * p.top_k + s]);
        if (e >= 0)
          add_mlp(t, gate_up, gate_up_scale, down, down_scale, e, p.intermediate, weights[t * p.top_k + s],
                  total);
      }
      for (std::int64_t i = 0; i < p.hidden; ++i)
        out.set(t * p.hidden + i, total[static_cast<std::size_t>(i)]);
    }
    return out;
  }

  std::int64_t most_workspace() const {
    std::int64_t most = 0;
    MoeForwardProblem any = p;
    for (const GroupLayout layout : {GroupLayout::contiguous, GroupLayout::offsets, GroupLayout::masked}) {
      any.layout = layout;
      most = std::max(most, moe_forward_workspace(any));
    }
    return most;
  }

  MoeForwardProblem p;
  Random random;
  Tensor x, ids, weights, base;
  Tensor gate_up, down, gate_up_scale, down_scale;
  Tensor shared_gate_up, shared_down, shared_gate_up_scale, shared_down_scale;
  Tensor workspace;
  std::vector<std::vector<TensorView>> views;

 private:
  Tensor scales(std::int64_t experts, std::int64_t n, std::int64_t k) {
    const double size = 0.12 / std::sqrt(static_cast<double>(std::max<std::int64_t>(k, 1)));
    return random.uniform(DType::f32, {experts, scale_groups(n), scale_groups(k)}, size, 2 * size);
  }
  void add_mlp(std::int64_t t, const Tensor& up_values, const Tensor& up_scale, const Tensor& down_values,
               const Tensor& down_scales, std::int64_t e, std::int64_t width, double weight,
               std::vector<double>& total) const {
    const auto product = [e](const Tensor& w, const Tensor& scale, std::int64_t n, std::int64_t k,
                             std::int64_t j, const auto& value) {
      double sum = 0;
      for (std::int64_t i = 0; i < k; ++i) {
        sum += value(i) * w[(e * n + j) * k + i] *
               scale[(e * scale_groups(n) + j / 128) * scale_groups(k) + i / 128];
      }
      return sum;
    };
    const auto input = [&](std::int64_t i) { return x[t * p.hidden + i]; };
    std::vector<double> h;
    for (std::int64_t j = 0; j < width; ++j) {
      const double gate = product(up_values, up_scale, 2 * width, p.hidden, j, input);
      h.push_back(gate / (1 + std::exp(-gate)) *
                  product(up_values, up_scale, 2 * width, p.hidden, width + j, input));
    }
    const auto inner = [&](std::int64_t i) { return h[static_cast<std::size_t>(i)]; };
    for (std::int64_t j = 0; j < p.hidden; ++j) {
      total[static_cast<std::size_t>(j)] +=
          weight * product(down_values, down_scales, p.hidden, width, j, inner);
    }
  }
};

/// The same mixture, with the shared expert (as wide as the others) as the last of them.
inline MoeCase with_shared_expert(const MoeCase& apart) {
  MoeForwardProblem p = apart.p;
  p.shared = 0;
  p.common = true;
  ++p.experts;
  ++p.top_k;
  MoeCase together(p, 1);
  const auto copy = [](const Tensor& from, const Tensor& to, std::int64_t at) {
    const std::int64_t size = size_of(from.view().dtype);
    std::memcpy(to.as<std::byte>() + at * size, from.as<std::byte>(),
                static_cast<std::size_t>(from.count() * size));
  };
  copy(apart.x, together.x, 0);
  for (const auto& [routed, shared, all] :
       {std::tuple(&apart.gate_up, &apart.shared_gate_up, &together.gate_up),
        {&apart.down, &apart.shared_down, &together.down},
        {&apart.gate_up_scale, &apart.shared_gate_up_scale, &together.gate_up_scale},
        {&apart.down_scale, &apart.shared_down_scale, &together.down_scale}}) {
    copy(*routed, *all, 0);
    copy(*shared, *all, routed->count());
  }
  for (std::int64_t t = 0; t < p.tokens; ++t) {
    const std::int64_t last = (t + 1) * p.top_k - 1;
    together.ids.set(last, static_cast<double>(p.experts - 1));
    together.weights.set(last, 1);
    for (std::int64_t s = 0; s < apart.p.top_k; ++s) {
      together.ids.set(t * p.top_k + s, apart.ids[t * apart.p.top_k + s]);
      together.weights.set(t * p.top_k + s, apart.weights[t * apart.p.top_k + s]);
    }
  }
  return together;
}

}  // namespace fathom
