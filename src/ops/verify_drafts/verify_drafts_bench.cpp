// The bench of verify_drafts: every draft is the likeliest token, so that all rows are looked at.
#include <algorithm>

#include "bench.hpp"
#include "fathom/ops/verify_drafts.hpp"

namespace fathom {

BenchCase verify_drafts_bench(std::string_view text, const Context& context) {
  const auto problem = parse_problem<VerifyDraftsProblem>(text);
  const std::int64_t rows = problem.batch * (problem.drafts + 1);
  const auto logits = bench_normal(DType::f32, {rows, problem.vocab}, 3);
  const auto buffer = std::make_shared<Buffer>(
      Buffer::zeroed((rows + problem.batch * problem.drafts + 2 * problem.batch) * 4));
  auto* coins = reinterpret_cast<float*>(buffer->data());
  auto* drafts = reinterpret_cast<std::int32_t*>(coins + rows);
  auto* results = drafts + problem.batch * problem.drafts;
  for (std::int64_t b = 0; b < problem.batch; ++b) {
    for (std::int64_t i = 0; i < problem.drafts; ++i) {
      const float* row =
          reinterpret_cast<const float*>(logits->data()) + (b * (problem.drafts + 1) + i) * problem.vocab;
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
            (void)buffer;  // owns coins, drafts and results
            verify_drafts({.logits = logits->view(DType::f32, {batch, count + 1, problem.vocab}),
                           .drafts = TensorView::contiguous(drafts, DType::i32, {batch, count}),
                           .params = params,
                           .coins = TensorView::contiguous(coins, DType::f32, {batch, count + 1}),
                           .accepted = TensorView::contiguous(results, DType::i32, {batch}),
                           .next_token = TensorView::contiguous(results + batch, DType::i32, {batch})},
                          context);
          }};
}

}  // namespace fathom
