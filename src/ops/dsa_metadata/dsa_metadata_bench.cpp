// The bench of dsa_metadata: every request fills its pages.
#include <algorithm>

#include "bench.hpp"
#include "fathom/ops/dsa_metadata.hpp"

namespace fathom {

BenchCase dsa_metadata_bench(std::string_view text, const Context& context) {
  const auto p = parse_problem<DsaMetadataProblem>(text);
  const std::int64_t share = p.batch > 0 ? p.rows / p.batch : 0;
  const auto integers = [](std::int64_t count, std::int64_t value) {
    auto buffer = bench_buffer(count * 4);
    std::fill_n(reinterpret_cast<std::int32_t*>(buffer->data()), count, static_cast<std::int32_t>(value));
    return buffer;
  };
  const auto prefix_lens = integers(p.batch, p.max_pages * p.page_tokens - share);
  const auto extend_lens = integers(p.batch, share);
  const auto page_table = integers(p.batch * p.max_pages, 0);
  const auto out = bench_buffer(dsa_metadata_size(p) * 4);
  return {.problem = problem_string(p),
          .bytes = static_cast<double>(page_table->size() + out->size()),
          .run = [=, &context](std::int64_t) {
            dsa_metadata({.mode = p.mode,
                          .prefix_lens = prefix_lens->view(DType::i32, {p.batch}),
                          .extend_lens = p.packed ? extend_lens->view(DType::i32, {p.batch}) : TensorView{},
                          .page_table = page_table->view(DType::i32, {p.batch, p.max_pages}),
                          .index_topk = p.index_topk,
                          .page_tokens = p.page_tokens,
                          .out = dsa_metadata_in(p, out->view(DType::i32, {out->size() / 4}))},
                         context);
          }};
}

}  // namespace fathom
