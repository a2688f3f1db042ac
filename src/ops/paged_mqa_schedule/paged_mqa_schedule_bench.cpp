#include "bench.hpp"
#include "fathom/ops/paged_mqa_schedule.hpp"

namespace fathom {

BenchCase paged_mqa_schedule_bench(std::string_view text, const Context& context) {
  const auto p = parse_problem<PagedMqaScheduleProblem>(text);
  const auto lens = bench_buffer(p.batch * p.next_n * 4);
  std::fill_n(reinterpret_cast<std::int32_t*>(lens->data()), p.batch * p.next_n, 5000);
  const auto schedule = bench_buffer((p.workers + 1) * 8);
  return {.problem = problem_string(p),
          .bytes = static_cast<double>(lens->size() + schedule->size()),
          .run = [=, &context](std::int64_t) {
            paged_mqa_schedule({.context_lens = lens->view(DType::i32, {p.batch, p.next_n}),
                                .schedule = schedule->view(DType::i32, {p.workers + 1, 2})},
                               context);
          }};
}

}  // namespace fathom
