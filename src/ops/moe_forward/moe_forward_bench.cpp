// The bench of moe_forward: tokens choose experts at random. Every run has the same weights: on a
// host, what fits a cache is there from the run before.
#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

#include "bench.hpp"
#include "fathom/ops/moe_forward.hpp"
#include "fathom/ops/quantization.hpp"

namespace fathom {

BenchCase moe_forward_bench(std::string_view text, const Context& context) {
  const auto p = parse_problem<MoeForwardProblem>(text);
  bench_at_least(p.op, "top_k", p.top_k, p.common ? 1 : 0);
  bench_at_least(p.op, "experts", p.experts, std::max<std::int64_t>(p.top_k, 1));
  const auto matrices = [](std::int64_t experts, std::int64_t n, std::int64_t k) {
    return std::pair(bench_normal(DType::f8e4m3, {experts, n, k}, 8),
                     bench_normal(DType::f32, {experts, scale_groups(n), scale_groups(k)}, 1e-3));
  };
  const auto gate_up = matrices(p.experts, 2 * p.intermediate, p.hidden);
  const auto down = matrices(p.experts, p.hidden, p.intermediate);
  const auto shared_gate_up = matrices(1, 2 * p.shared, p.hidden);
  const auto shared_down = matrices(1, p.hidden, p.shared);
  const auto x = bench_normal(p.x, {p.tokens, p.hidden});
  const auto weights = bench_normal(DType::f32, {p.tokens, p.top_k});
  const auto ids = bench_buffer(p.tokens * p.top_k * 4);
  const auto out = bench_normal(p.out, {p.tokens, p.hidden});
  const auto workspace = bench_buffer(moe_forward_workspace(p));
  std::mt19937 engine(1);
  const std::int64_t common = p.common ? 1 : 0;
  std::vector<std::int32_t> order(static_cast<std::size_t>(p.experts - common));
  std::iota(order.begin(), order.end(), 0);
  std::vector<bool> hit(static_cast<std::size_t>(p.experts));
  auto* id = reinterpret_cast<std::int32_t*>(ids->data());
  for (std::int64_t i = 0; i < p.tokens * p.top_k; ++i) {
    const std::int64_t slot = i % p.top_k;
    if (slot == 0) std::shuffle(order.begin(), order.end(), engine);
    id[i] = slot < p.top_k - common ? order[static_cast<std::size_t>(slot)]
                                    : static_cast<std::int32_t>(p.experts - 1);
    hit[static_cast<std::size_t>(id[i])] = true;
  }
  const auto experts = static_cast<double>(std::ranges::count(hit, true));
  const auto products = [&](std::int64_t width) { return 3.0 * static_cast<double>(width * p.hidden); };
  // Of one expert: a byte for every product of a token, and the scales.
  const auto weight_bytes = [&](std::int64_t width) {
    const std::int64_t scales =
        (scale_groups(2 * width) + scale_groups(width)) * scale_groups(p.hidden);  // of gate_up and of down
    return products(width) + 4.0 * static_cast<double>(scales);
  };
  const auto split = [](const std::shared_ptr<BenchBuffer>& buffer, DType dtype, std::int64_t count,
                        std::int64_t n, std::int64_t k) {
    return split_groups(buffer->view(dtype, {count, n, k}));
  };
  const auto values = [&](const auto& pair, std::int64_t count, std::int64_t n, std::int64_t k) {
    return split(pair.first, DType::f8e4m3, count, n, k);
  };
  const auto scales = [&](const auto& pair, std::int64_t count, std::int64_t n, std::int64_t k) {
    return split(pair.second, DType::f32, count, scale_groups(n), scale_groups(k));
  };
  // Views of every expert, in the order of the arguments.
  const std::vector<std::vector<TensorView>> views{values(gate_up, p.experts, 2 * p.intermediate, p.hidden),
                                                   scales(gate_up, p.experts, 2 * p.intermediate, p.hidden),
                                                   values(down, p.experts, p.hidden, p.intermediate),
                                                   scales(down, p.experts, p.hidden, p.intermediate)};
  SharedExpert shared;
  if (p.shared > 0) {
    shared = {.gate_up = values(shared_gate_up, 1, 2 * p.shared, p.hidden)[0],
              .gate_up_scale = scales(shared_gate_up, 1, 2 * p.shared, p.hidden)[0],
              .down = values(shared_down, 1, p.hidden, p.shared)[0],
              .down_scale = scales(shared_down, 1, p.hidden, p.shared)[0]};
  }
  const auto rows = static_cast<double>(p.tokens * p.top_k);
  return {.problem = problem_string(p),
          .bytes = experts * weight_bytes(p.intermediate) + weight_bytes(p.shared) +
                   static_cast<double>(x->size() + ids->size() + weights->size() + out->size()),
          .flops = 2 * (rows * products(p.intermediate) + static_cast<double>(p.tokens) * products(p.shared)),
          .arithmetic = DType::f8e4m3,
          .run = [=, &context](std::int64_t) {
            static_cast<void>(gate_up), static_cast<void>(down);  // own what the views show
            static_cast<void>(shared_gate_up), static_cast<void>(shared_down);
            moe_forward({.x = x->view(p.x, {p.tokens, p.hidden}),
                         .ids = ids->view(DType::i32, {p.tokens, p.top_k}),
                         .weights = weights->view(DType::f32, {p.tokens, p.top_k}),
                         .gate_up = views[0],
                         .gate_up_scale = views[1],
                         .down = views[2],
                         .down_scale = views[3],
                         .shared = shared,
                         .out = out->view(p.out, {p.tokens, p.hidden}),
                         .workspace = workspace->view(DType::u8, {workspace->size()}),
                         .inner = p.inner,
                         .accumulate = p.accumulate,
                         .decode = p.decode,
                         .common = p.common,
                         .layout = p.layout},
                        context);
          }};
}

}  // namespace fathom
