#include <algorithm>
#include <random>

#include "bench.hpp"
#include "fathom/ops/sparse_mla.hpp"
#include "ops/cache_bench.hpp"

namespace fathom {

// Every token reads top_k random slots of 4 * top_k, ascending: of one request, or on a device, whose caches
// would hold that, of up to 128 requests with such caches of their own. The problem's flops are those of both
// products.
BenchCase sparse_mla_bench(std::string_view text, const Context& context) {
  const auto p = parse_problem<SparseMlaProblem>(text);
  const std::int64_t each = 4 * p.top_k;
  const bool on_device = context.device().kind != DeviceKind::host;
  const std::int64_t requests = on_device && p.tokens <= 512 ? std::clamp<std::int64_t>(p.tokens, 1, 128) : 1;
  const std::int64_t slots = requests * each;
  const std::int64_t dim = p.lora + p.rope_dim;
  const std::int64_t width = p.cache == DType::u8 ? mla_cache_entry_bytes(p.lora, p.rope_dim) : dim;
  const auto q = bench_normal(p.q, {p.tokens, p.heads, dim});
  const auto cache = bench_mla_cache(slots, each, p.cache, p.lora, p.rope_dim, context);
  const auto indices = bench_buffer(p.tokens * p.top_k * 4);
  std::mt19937 engine(1);
  for (std::int64_t i = 0; i < p.tokens * p.top_k; ++i)
    reinterpret_cast<std::int32_t*>(indices->data())[i] =
        static_cast<std::int32_t>(i / p.top_k * requests / p.tokens * each + 4 * (i % p.top_k) +
                                  static_cast<std::int64_t>(engine() % 4));
  const auto out = bench_buffer(p.tokens * p.heads * p.lora * size_of(p.out));
  return {
      .problem = problem_string(p),
      .bytes = static_cast<double>(q->size() + out->size() + p.tokens * p.top_k * width * size_of(p.cache)),
      .flops = 2.0 * static_cast<double>(p.tokens * p.heads) * static_cast<double>(p.top_k * (dim + p.lora)),
      .run = [=, &context](std::int64_t) {
        sparse_mla({.q = q->view(p.q, {p.tokens, p.heads, dim}),
                    .cache = cache->view(p.cache, {slots, width}),
                    .indices = indices->view(DType::i32, {p.tokens, p.top_k}),
                    .softmax_scale = 0.072f,
                    .out = out->view(p.out, {p.tokens, p.heads, p.lora}),
                    .decode = p.decode},
                   context);
      }};
}

}  // namespace fathom
