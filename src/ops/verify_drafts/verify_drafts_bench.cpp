// The bench of verify_drafts: every draft is the likeliest token, so that all rows are looked at.
#include <algorithm>

#include "bench.hpp"
#include "fathom/ops/verify_drafts.hpp"

namespace fathom {

BenchCase verify_drafts_bench(std::string_view text, const Context& context) {
  const auto problem = parse_problem<VerifyDraftsProblem>(text);
  const std::int64_t rows = problem.batch * (problem.drafts + 1);
  const auto logits = bench_normal(DType::f32, {rows, problem.vocab}, 3);
  const auto coins = bench_zeros(rows * 4);
  const auto ids = bench_buffer(problem.batch * problem.drafts * 4);
  const auto accepted = bench_buffer(problem.batch * 4);
  const auto next = bench_buffer(problem.batch * 4);
  const auto* all = reinterpret_cast<const float*>(logits->data());
  auto* drafts = reinterpret_cast<std::int32_t*>(ids->data());
  for (std::int64_t b = 0; b < problem.batch; ++b) {
    for (std::int64_t i = 0; i < problem.drafts; ++i) {
      const float* row = all + (b * (problem.drafts + 1) + i) * problem.vocab;
      drafts[b * problem.drafts + i] =
          static_cast<std::int32_t>(std::max_element(row, row + problem.vocab) - row);
    }
  }
  SamplingParams params{.temperature = problem.greedy ? 0.0f : 0.8f};
  if (problem.filtered) {
    params.top_k = 50;
    params.top_p = 0.95f;
  }
  const auto [batch, count] = std::pair(problem.batch, problem.drafts);
  return {.problem = problem_string(problem),
          .bytes = static_cast<double>(logits->size()),
          .flops = 0,
          .run = [=, &context](std::int64_t) {
            verify_drafts({.logits = logits->view(DType::f32, {batch, count + 1, problem.vocab}),
                           .drafts = ids->view(DType::i32, {batch, count}),
                           .params = params,
                           .coins = coins->view(DType::f32, {batch, count + 1}),
                           .accepted = accepted->view(DType::i32, {batch}),
                           .next_token = next->view(DType::i32, {batch})},
                          context);
          }};
}

}  // namespace fathom
