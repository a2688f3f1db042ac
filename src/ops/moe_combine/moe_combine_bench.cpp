// The bench of moe_combine.
#include "bench.hpp"
#include "fathom/ops/moe_combine.hpp"

namespace fathom {

BenchCase moe_combine_bench(std::string_view text, const Context& context) {
  auto problem = parse_problem<MoeCombineProblem>(text);
  problem.rows = problem.tokens * problem.top_k;
  const auto y = bench_normal(problem.y, {problem.rows, problem.dim});
  const auto weights = bench_normal(DType::f32, {problem.tokens, problem.top_k});
  const auto out = bench_normal(problem.out, {problem.tokens, problem.dim});
  const auto slots = bench_buffer(problem.rows * size_of(DType::i32));
  // Slot s of token t lies in a block of its expert, as after moe_permute.
  for (std::int64_t i = 0; i < problem.rows; ++i) {
    reinterpret_cast<std::int32_t*>(slots->data())[i] =
        static_cast<std::int32_t>(i % problem.top_k * problem.tokens + i / problem.top_k);
  }
  return {.problem = problem_string(problem),
          .bytes = static_cast<double>(y->size() + weights->size() + slots->size() + out->size()),
          .flops = 2.0 * static_cast<double>(problem.rows * problem.dim),
          .run = [=, &context](std::int64_t) {
            moe_combine({.y = y->view(problem.y, {problem.rows, problem.dim}),
                         .slot_to_row = slots->view(DType::i32, {problem.tokens, problem.top_k}),
                         .weights = weights->view(DType::f32, {problem.tokens, problem.top_k}),
                         .out = out->view(problem.out, {problem.tokens, problem.dim}),
                         .accumulate = problem.accumulate},
                        context);
          }};
}

}  // namespace fathom
