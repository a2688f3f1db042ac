#include <algorithm>

#include "bench.hpp"
#include "fathom/ops/transform_scale_ue8m0.hpp"

namespace fathom {

BenchCase transform_scale_ue8m0_bench(std::string_view text, const Context& context) {
  const auto problem = parse_problem<TransformScaleUe8m0Problem>(text);
  bench_at_least(problem.op, "rows_per_scale", problem.rows_per_scale, 1);
  const std::int64_t batch = problem.batch > 0 ? problem.batch : 1;
  const std::int64_t rows = (problem.mn + problem.rows_per_scale - 1) / problem.rows_per_scale;
  const auto sf = bench_buffer(batch * rows * problem.groups * 4);
  std::fill_n(reinterpret_cast<float*>(sf->data()), batch * rows * problem.groups, 0.25f);
  const auto out = bench_buffer(batch * scale_bytes(ScaleLayout::packed_ue8m0, problem.mn, problem.groups));
  return {.problem = problem_string(problem),
          .bytes = static_cast<double>(sf->size() + out->size()),
          .run = [=, &context](std::int64_t) {
            transform_scale_ue8m0({.sf = sf->view(DType::f32, {batch, rows, problem.groups}),
                                   .out = out->place(scale_view(nullptr, ScaleLayout::packed_ue8m0, batch,
                                                                problem.mn, problem.groups)),
                                   .rows_per_scale = problem.rows_per_scale,
                                   .round_up = problem.round_up},
                                  context);
          }};
}

}  // namespace fathom
