#include <algorithm>

#include "bench.hpp"
#include "fathom/ops/paged_mqa_logits.hpp"
#include "ops/cache_bench.hpp"

namespace fathom {

// One sequence is max_len long; several have lengths from 0.7 max_len to max_len, neighbours far apart. Pages
// lie in memory in reverse order. Whole rows of logits are written, also where no key is seen.
BenchCase paged_mqa_logits_bench(std::string_view text, const Context& context) {
  const auto p = parse_problem<PagedMqaLogitsProblem>(text);
  bench_at_least(p.op, "page", p.page, 1);
  const bool quantised = p.q == DType::f8e4m3;
  const std::int64_t rows = p.batch * p.next_n;
  const std::int64_t table = (p.max_len + p.page - 1) / p.page;
  const std::int64_t page_bytes = p.page * (p.head_dim + 4);
  const std::int64_t pages = p.batch * table;
  const auto q = bench_normal(p.q, {rows, p.heads, p.head_dim});
  const auto cache = quantised ? bench_index_cache(pages, p.page, p.head_dim)
                               : bench_normal(DType::f32, {pages, p.page, p.head_dim});
  const auto weights = bench_normal(DType::f32, {rows, p.heads});
  const auto lens = bench_buffer(rows * 4);
  std::int64_t keys = 0;  // of all sequences
  std::int64_t seen = 0;  // by all rows
  for (std::int64_t b = 0; b < p.batch; ++b) {
    const std::int64_t cut = p.batch > 1 ? 3 * p.max_len * (b * 7 % p.batch) / (10 * (p.batch - 1)) : 0;
    const std::int64_t len = std::max(p.max_len - cut, std::min(p.next_n, p.max_len));
    keys += len;
    for (std::int64_t i = 0; i < p.next_n; ++i) {
      const std::int64_t end = std::max<std::int64_t>(len - (p.next_n - 1 - i), 0);
      reinterpret_cast<std::int32_t*>(lens->data())[b * p.next_n + i] = static_cast<std::int32_t>(end);
      seen += end;
    }
  }
  const auto tables = bench_buffer(pages * 4);
  for (std::int64_t i = 0; i < pages; ++i)
    reinterpret_cast<std::int32_t*>(tables->data())[i] = static_cast<std::int32_t>(pages - 1 - i);
  const auto logits = bench_zeros(rows * p.max_len * 4);
  return {.problem = problem_string(p),
          .bytes = static_cast<double>(q->size() + keys * (quantised ? p.head_dim + 4 : 4 * p.head_dim) +
                                       weights->size() + logits->size()),
          .flops = 2.0 * static_cast<double>(seen) * static_cast<double>(p.heads * p.head_dim),
          .arithmetic = p.q,
          .run = [=, &context](std::int64_t) {
            paged_mqa_logits(
                {.q = q->view(p.q, {p.batch, p.next_n, p.heads, p.head_dim}),
                 .cache = quantised ? cache->view(DType::u8, {pages, page_bytes})
                                    : cache->view(DType::f32, {pages, p.page, p.head_dim}),
                 .weights = weights->view(DType::f32, {rows, p.heads}),
                 .context_lens = p.flattened ? TensorView{} : lens->view(DType::i32, {p.batch, p.next_n}),
                 .block_table = tables->view(DType::i32, {p.batch, table}),
                 .logits = logits->view(DType::f32, {rows, p.max_len}),
                 .row_lens = p.flattened ? lens->view(DType::i32, {rows}) : TensorView{}},
                context);
          }};
}

}  // namespace fathom
