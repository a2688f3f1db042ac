#include <algorithm>

#include "bench.hpp"
#include "fathom/ops/index_select.hpp"

namespace fathom {

// Every row sees all columns; pages lie in memory in order.
BenchCase index_select_bench(std::string_view text, const Context& context) {
  const auto p = parse_problem<IndexSelectProblem>(text);
  bench_at_least(p.op, "next_n", p.next_n, 1);
  bench_at_least(p.op, "page", p.page, 1);
  const bool f8 = p.q == DType::f8e4m3;
  const std::int64_t requests = p.paged ? p.rows / p.next_n : 1;
  const std::int64_t table = (p.columns + p.page - 1) / p.page;
  const std::int64_t pages = requests * table;
  const std::int64_t keys = p.paged ? pages * p.page : p.columns;
  const auto q = bench_normal(p.q, {p.rows, p.heads, p.head_dim});
  const auto k = bench_normal(p.q, {keys, p.head_dim + (p.paged && f8 ? 4 : 0)});
  const auto scales = bench_buffer(keys * 4);
  std::fill_n(reinterpret_cast<float*>(scales->data()), keys, 0.01f);
  const auto weights = bench_normal(DType::f32, {p.rows, p.heads});
  const auto first = bench_zeros(p.rows * 4);
  const auto lengths = bench_buffer(p.rows * 4);
  std::fill_n(reinterpret_cast<std::int32_t*>(lengths->data()), p.rows, static_cast<std::int32_t>(p.columns));
  const auto tables = bench_buffer(pages * 4);
  for (std::int64_t i = 0; i < pages; ++i)
    reinterpret_cast<std::int32_t*>(tables->data())[i] = static_cast<std::int32_t>(i);
  for (std::int64_t page = 0; p.paged && f8 && page < pages; ++page) {
    std::byte* at = k->data() + (page * (p.head_dim + 4) + p.head_dim) * p.page;
    std::copy_n(scales->data(), 4 * p.page, at);
  }
  const auto workspace = bench_buffer(p.chunk * p.columns * 4);
  const auto out = bench_buffer(p.rows * p.k * 4);
  const auto args = [=] {
    IndexSelectArgs a{.weights = weights->view(DType::f32, {p.rows, p.heads}),
                      .lengths = lengths->view(DType::i32, {p.rows}),
                      .workspace = workspace->view(DType::f32, {p.chunk, p.columns}),
                      .out = out->view(DType::i32, {p.rows, p.k})};
    if (p.paged) {
      a.q = q->view(p.q, {requests, p.next_n, p.heads, p.head_dim});
      a.cache = f8 ? k->view(DType::u8, {pages, p.page * (p.head_dim + 4)})
                   : k->view(DType::f32, {pages, p.page, p.head_dim});
      a.block_table = tables->view(DType::i32, {requests, table});
      a.context_lens = lengths->view(DType::i32, {requests, p.next_n});
    } else {
      a.q = q->view(p.q, {p.rows, p.heads, p.head_dim});
      a.k = k->view(p.q, {keys, p.head_dim});
      if (f8) a.k_scale = scales->view(DType::f32, {keys});
      a.first = first->view(DType::i32, {p.rows});
      a.last = a.lengths;
    }
    return a;
  };
  auto run = p;
  run.transform = TopKTransform::plain;
  return {.problem = problem_string(run),
          .bytes = static_cast<double>(q->size() + k->size() + weights->size() + out->size()),
          .flops = 2.0 * static_cast<double>(p.rows * p.columns) * static_cast<double>(p.heads * p.head_dim),
          .arithmetic = p.q,
          .run = [=, &context](std::int64_t) { index_select(args(), context); }};
}

}  // namespace fathom
