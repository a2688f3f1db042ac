#include "bench.hpp"
#include "fathom/ops/paged_mqa_logits.hpp"

namespace fathom {

// Every token sees max_len keys: the flops stated are done. Pages lie in memory in reverse order.
BenchCase paged_mqa_logits_bench(std::string_view text, const Context& context) {
  const auto p = parse_problem<PagedMqaLogitsProblem>(text);
  const bool quantised = p.q == DType::f8e4m3;
  const std::int64_t rows = p.batch * p.next_n;
  const std::int64_t table = (p.max_len + kIndexKeyPageTokens - 1) / kIndexKeyPageTokens;
  const std::int64_t pages = p.batch * table;
  const auto q = bench_normal(p.q, {rows, p.heads, p.head_dim});
  const auto cache = quantised ? bench_normal(DType::f8e4m3, {pages, kIndexKeyPageBytes})
                               : bench_normal(DType::f32, {pages, kIndexKeyPageTokens, p.head_dim});
  for (std::int64_t page = 0; quantised && page < pages; ++page) {
    auto* scales = reinterpret_cast<float*>(cache->data() + page * kIndexKeyPageBytes + 8192);
    std::fill_n(scales, kIndexKeyPageTokens, 0.01f);
  }
  const auto weights = bench_normal(DType::f32, {rows, p.heads});
  const auto lens = bench_buffer(rows * 4);
  std::fill_n(reinterpret_cast<std::int32_t*>(lens->data()), rows, static_cast<std::int32_t>(p.max_len));
  const auto tables = bench_buffer(pages * 4);
  for (std::int64_t i = 0; i < pages; ++i)
    reinterpret_cast<std::int32_t*>(tables->data())[i] = static_cast<std::int32_t>(pages - 1 - i);
  const auto logits = bench_zeros(rows * p.max_len * 4);
  return {.problem = problem_string(p),
          .bytes = static_cast<double>(q->size() + cache->size() + logits->size()),
          .flops = 2.0 * static_cast<double>(rows * p.max_len) * static_cast<double>(p.heads * p.head_dim),
          .run = [=, &context](std::int64_t) {
            paged_mqa_logits(
                {.q = q->view(p.q, {p.batch, p.next_n, p.heads, p.head_dim}),
                 .cache = quantised ? cache->view(DType::u8, {pages, kIndexKeyPageBytes})
                                    : cache->view(DType::f32, {pages, kIndexKeyPageTokens, p.head_dim}),
                 .weights = weights->view(DType::f32, {rows, p.heads}),
                 .context_lens = lens->view(DType::i32, {p.batch, p.next_n}),
                 .block_table = tables->view(DType::i32, {p.batch, table}),
                 .logits = logits->view(DType::f32, {rows, p.max_len})},
                context);
          }};
}

}  // namespace fathom
