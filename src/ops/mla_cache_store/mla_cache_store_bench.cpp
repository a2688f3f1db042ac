#include "bench.hpp"
#include "fathom/ops/mla_cache_store.hpp"

namespace fathom {

BenchCase mla_cache_store_bench(std::string_view text, const Context& context) {
  auto problem = parse_problem<MlaCacheStoreProblem>(text);
  problem.slots = DType::i32;
  const std::int64_t tokens = problem.tokens;
  const std::int64_t width = problem.cache == DType::u8
                                 ? mla_cache_entry_bytes(problem.lora, problem.rope_dim)
                                 : problem.lora + problem.rope_dim;
  const auto latent = bench_normal(problem.latent, {tokens, problem.lora});
  const auto rope = bench_normal(problem.rope, {tokens, problem.rope_dim});
  const auto slots = bench_buffer(tokens * 4);
  for (std::int64_t t = 0; t < tokens; ++t)
    reinterpret_cast<std::int32_t*>(slots->data())[t] = static_cast<std::int32_t>(t);
  const auto cache = bench_zeros(tokens * width * size_of(problem.cache));
  return {.problem = problem_string(problem),
          .bytes = static_cast<double>(latent->size() + rope->size() + cache->size()),
          .run = [=, &context](std::int64_t) {
            mla_cache_store({.latent = latent->view(problem.latent, {tokens, problem.lora}),
                             .rope = rope->view(problem.rope, {tokens, problem.rope_dim}),
                             .slots = slots->view(DType::i32, {tokens}),
                             .cache = cache->view(problem.cache, {tokens, width})},
                            context);
          }};
}

}  // namespace fathom
