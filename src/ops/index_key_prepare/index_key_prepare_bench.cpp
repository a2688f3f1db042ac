#include "bench.hpp"
#include "fathom/ops/index_key_prepare.hpp"
#include "ops/prepare_bench.hpp"

namespace fathom {

BenchCase index_key_prepare_bench(std::string_view text, const Context& context) {
  auto problem = parse_problem<IndexKeyPrepareProblem>(text);
  problem.slots = DType::i32;
  const std::int64_t tokens = problem.tokens;
  const std::int64_t dim = problem.dim;
  bench_at_least(problem.op, "page", problem.page, 1);
  const std::int64_t pages = (tokens + problem.page - 1) / problem.page;
  const auto k = bench_normal(problem.k, {tokens, dim});
  const auto weight = bench_normal(problem.weight, {dim});
  const auto bias = bench_normal(problem.weight, {dim});
  const auto slots = bench_ascending(tokens);  // positions, too
  const auto table = bench_rope_table(problem.rope_dim, tokens);
  const std::int64_t entry = problem.cache == DType::u8 ? dim + 4 : 4 * dim;
  const auto cache = bench_zeros(pages * problem.page * entry);
  return {.problem = problem_string(problem),
          .bytes = static_cast<double>(k->size() + table->size() + tokens * entry),
          .run = [=, &context](std::int64_t) {
            index_key_prepare(
                {.k = k->view(problem.k, {tokens, dim}),
                 .weight = weight->view(problem.weight, {dim}),
                 .bias = bias->view(problem.weight, {dim}),
                 .positions = slots->view(DType::i32, {tokens}),
                 .cos_sin = table->view(DType::f32, {tokens, problem.rope_dim}),
                 .slots = slots->view(DType::i32, {tokens}),
                 .cache = problem.cache == DType::u8 ? cache->view(DType::u8, {pages, problem.page * entry})
                                                     : cache->view(DType::f32, {pages, problem.page, dim}),
                 .offset = problem.offset,
                 .style = problem.style,
                 .hadamard = problem.hadamard,
                 .ue8m0 = problem.ue8m0},
                context);
          }};
}

}  // namespace fathom
