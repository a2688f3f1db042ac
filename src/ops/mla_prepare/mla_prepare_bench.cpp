#include "bench.hpp"
#include "fathom/ops/mla_cache_store.hpp"
#include "fathom/ops/mla_prepare.hpp"
#include "ops/prepare_bench.hpp"

namespace fathom {

BenchCase mla_prepare_bench(std::string_view text, const Context& context) {
  auto problem = parse_problem<MlaPrepareProblem>(text);
  problem.slots = DType::i32;
  const std::int64_t tokens = problem.tokens;
  const std::int64_t rope_dim = problem.rope_dim;
  const std::int64_t width =
      problem.cache == DType::u8 ? mla_cache_entry_bytes(problem.lora, rope_dim) : problem.lora + rope_dim;
  const auto latent = bench_normal(problem.kv, {tokens, problem.lora});
  const auto rope = bench_normal(problem.kv, {tokens, rope_dim});
  const auto weight = bench_normal(problem.weight, {problem.lora});
  const auto slots = bench_ascending(tokens);  // positions, too
  const auto table = bench_rope_table(rope_dim, tokens);
  const auto cache = bench_zeros(tokens * width * size_of(problem.cache));
  const auto q = bench_normal(problem.q, {tokens, problem.heads, rope_dim});
  const auto q_out = bench_zeros(tokens * problem.heads * rope_dim * size_of(problem.q_out));
  const auto queries = [=](const std::shared_ptr<BenchBuffer>& buffer, DType dtype) {
    return problem.heads > 0 ? buffer->view(dtype, {tokens, problem.heads, rope_dim}) : TensorView{};
  };
  return {.problem = problem_string(problem),
          .bytes = static_cast<double>(latent->size() + rope->size() + table->size() + cache->size() +
                                       q->size() + q_out->size()),
          .run = [=, &context](std::int64_t) {
            mla_prepare({.latent = latent->view(problem.kv, {tokens, problem.lora}),
                         .rope = rope->view(problem.kv, {tokens, rope_dim}),
                         .weight = weight->view(problem.weight, {problem.lora}),
                         .positions = slots->view(DType::i32, {tokens}),
                         .cos_sin = table->view(DType::f32, {tokens, rope_dim}),
                         .slots = slots->view(DType::i32, {tokens}),
                         .cache = cache->view(problem.cache, {tokens, width}),
                         .q = queries(q, problem.q),
                         .q_out = queries(q_out, problem.q_out),
                         .style = problem.style},
                        context);
          }};
}

}  // namespace fathom
