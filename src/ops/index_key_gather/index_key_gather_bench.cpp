#include "bench.hpp"
#include "fathom/ops/index_key_gather.hpp"

namespace fathom {

// Keys and scales are copied, whatever they hold: random bytes will do.
BenchCase index_key_gather_bench(std::string_view text, const Context& context) {
  auto problem = parse_problem<IndexKeyGatherProblem>(text);
  const std::int64_t batch = problem.batch;
  const std::int64_t len = problem.keys / std::max<std::int64_t>(batch, 1);
  problem.keys = len * batch;
  bench_at_least(problem.op, "page", problem.page, 1);
  const std::int64_t table = (len + problem.page - 1) / problem.page;
  const bool quantised = problem.cache == DType::u8;
  const std::int64_t key_bytes = quantised ? problem.dim : 4 * problem.dim;
  const std::int64_t page_bytes = problem.page * (quantised ? problem.dim + 4 : key_bytes);
  const auto cache = quantised ? bench_normal(DType::f8e4m3, {batch * table, page_bytes})
                               : bench_normal(DType::f32, {batch * table, page_bytes / 4});
  const auto keys = bench_zeros(problem.keys * key_bytes);
  const auto scales = bench_zeros(problem.keys * 4);
  const auto tables = bench_buffer(batch * table * 4);
  for (std::int64_t i = 0; i < batch * table; ++i)
    reinterpret_cast<std::int32_t*>(tables->data())[i] = static_cast<std::int32_t>(batch * table - 1 - i);
  const auto lens = bench_buffer(batch * 4);
  std::fill_n(reinterpret_cast<std::int32_t*>(lens->data()), batch, static_cast<std::int32_t>(len));
  return {.problem = problem_string(problem),
          .bytes = 2.0 * static_cast<double>(problem.keys * (key_bytes + (quantised ? 4 : 0))),
          .run = [=, &context](std::int64_t) {
            index_key_gather(
                {.cache = quantised ? cache->view(DType::u8, {batch * table, page_bytes})
                                    : cache->view(DType::f32, {batch * table, problem.page, problem.dim}),
                 .block_table = tables->view(DType::i32, {batch, table}),
                 .lens = lens->view(DType::i32, {batch}),
                 .keys = keys->view(quantised ? DType::f8e4m3 : DType::f32, {problem.keys, problem.dim}),
                 .scales = quantised ? scales->view(DType::f32, {problem.keys}) : TensorView{}},
                context);
          }};
}

}  // namespace fathom
