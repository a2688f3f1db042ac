#include "bench.hpp"
#include "fathom/ops/mqa_logits.hpp"

namespace fathom {

// The tokens are the last of a sequence of `keys`, and each sees those up to itself; with fewer keys than
// tokens each sees all. Whole rows of logits are written, also where no key is seen.
BenchCase mqa_logits_bench(std::string_view text, const Context& context) {
  const auto p = parse_problem<MqaLogitsProblem>(text);
  const bool quantised = p.q == DType::f8e4m3;
  const auto q = bench_normal(p.q, {p.tokens, p.heads, p.head_dim});
  const auto k = bench_normal(p.q, {p.keys, p.head_dim});
  const auto k_scale = bench_normal(DType::f32, {p.keys});
  const auto weights = bench_normal(DType::f32, {p.tokens, p.heads});
  const auto first = bench_zeros(p.tokens * 4);
  const auto last = bench_buffer(p.tokens * 4);
  std::int64_t seen = 0;
  for (std::int64_t t = 0; t < p.tokens; ++t) {
    const std::int64_t end = p.keys >= p.tokens ? p.keys - p.tokens + t + 1 : p.keys;
    reinterpret_cast<std::int32_t*>(last->data())[t] = static_cast<std::int32_t>(end);
    seen += end;
  }
  const auto logits = bench_zeros(p.tokens * p.keys * 4);
  return {.problem = problem_string(p),
          .bytes = static_cast<double>(q->size() + k->size() + (quantised ? k_scale->size() : 0) +
                                       weights->size() + logits->size()),
          .flops = 2.0 * static_cast<double>(seen) * static_cast<double>(p.heads * p.head_dim),
          .arithmetic = p.q,
          .run = [=, &context](std::int64_t) {
            mqa_logits({.q = q->view(p.q, {p.tokens, p.heads, p.head_dim}),
                        .k = k->view(p.q, {p.keys, p.head_dim}),
                        .k_scale = quantised ? k_scale->view(DType::f32, {p.keys}) : TensorView{},
                        .weights = weights->view(DType::f32, {p.tokens, p.heads}),
                        .first = first->view(DType::i32, {p.tokens}),
                        .last = last->view(DType::i32, {p.tokens}),
                        .logits = logits->view(DType::f32, {p.tokens, p.keys})},
                       context);
          }};
}

}  // namespace fathom
