// The bench of sample.
#include "bench.hpp"
#include "fathom/ops/sample.hpp"

namespace fathom {

BenchCase sample_bench(std::string_view text, const Context& context) {
  const auto problem = parse_problem<SampleProblem>(text);
  const auto logits = bench_normal(DType::f32, {problem.rows, problem.vocab}, 3);
  const auto coins = bench_buffer(problem.rows * size_of(DType::f32));
  const auto tokens = bench_buffer(problem.rows * size_of(DType::i32));
  for (std::int64_t r = 0; r < problem.rows; ++r) {
    reinterpret_cast<float*>(coins->data())[r] = static_cast<float>(r % 97) / 97.0f;
  }
  SamplingParams params{.temperature = problem.greedy ? 0.0f : 0.8f};
  if (problem.filtered) {
    params.top_k = 50;
    params.top_p = 0.95f;
  }
  return {.problem = problem_string(problem),
          .bytes = static_cast<double>(logits->size()),
          .flops = 0,
          .run = [=, &context](std::int64_t) {
            sample({.logits = logits->view(DType::f32, {problem.rows, problem.vocab}),
                    .params = params,
                    .coins = coins->view(DType::f32, {problem.rows}),
                    .tokens = tokens->view(DType::i32, {problem.rows})},
                   context);
          }};
}

}  // namespace fathom
