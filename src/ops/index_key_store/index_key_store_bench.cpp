#include "bench.hpp"
#include "fathom/ops/index_key_store.hpp"

namespace fathom {

BenchCase index_key_store_bench(std::string_view text, const Context& context) {
  auto problem = parse_problem<IndexKeyStoreProblem>(text);
  problem.slots = DType::i32;
  const std::int64_t tokens = problem.tokens;
  bench_at_least(problem.op, "page", problem.page, 1);
  const std::int64_t pages = (tokens + problem.page - 1) / problem.page;
  const auto k = bench_normal(problem.k, {tokens, problem.dim});
  const auto slots = bench_buffer(tokens * 4);
  for (std::int64_t t = 0; t < tokens; ++t)
    reinterpret_cast<std::int32_t*>(slots->data())[t] = static_cast<std::int32_t>(t);
  const std::int64_t entry = problem.cache == DType::u8 ? problem.dim + 4 : 4 * problem.dim;
  const auto cache = bench_zeros(pages * problem.page * entry);
  return {.problem = problem_string(problem),
          .bytes = static_cast<double>(k->size() + tokens * entry),
          .run = [=, &context](std::int64_t) {
            index_key_store({.k = k->view(problem.k, {tokens, problem.dim}),
                             .slots = slots->view(DType::i32, {tokens}),
                             .cache = problem.cache == DType::u8
                                          ? cache->view(DType::u8, {pages, problem.page * entry})
                                          : cache->view(DType::f32, {pages, problem.page, problem.dim}),
                             .ue8m0 = problem.ue8m0},
                            context);
          }};
}

}  // namespace fathom
