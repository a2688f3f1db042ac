#include "bench.hpp"
#include "fathom/ops/top_k.hpp"

namespace fathom {

BenchCase top_k_bench(std::string_view text, const Context& context) {
  auto p = parse_problem<TopKProblem>(text);
  p.transform = TopKTransform::plain;
  const auto scores = bench_normal(DType::f32, {p.rows, p.n});
  const auto lengths = bench_buffer(p.rows * 4);
  std::fill_n(reinterpret_cast<std::int32_t*>(lengths->data()), p.rows, static_cast<std::int32_t>(p.n));
  const auto out = bench_buffer(p.rows * p.k * 4);
  return {.problem = problem_string(p),
          .bytes = static_cast<double>(scores->size() + out->size()),
          .run = [=, &context](std::int64_t) {
            top_k({.scores = scores->view(DType::f32, {p.rows, p.n}),
                   .lengths = lengths->view(DType::i32, {p.rows}),
                   .out = out->view(DType::i32, {p.rows, p.k})},
                  context);
          }};
}

}  // namespace fathom
