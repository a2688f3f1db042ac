// The bench of m_grouped_linear_f32.
#include "fathom/ops/m_grouped_linear_f32.hpp"
#include "ops/grouped_bench.hpp"

namespace fathom {

BenchCase m_grouped_linear_f32_bench(std::string_view text, const Context& context) {
  using Bench = GroupedBench<MGroupedLinearF32Problem>;
  const auto problem = parse_problem<MGroupedLinearF32Problem>(text);
  const bool scaled = problem.b == DType::f8e4m3;
  const auto bench = std::make_shared<Bench>(problem, DType::f32, problem.b, DType::f32);
  return bench->bench_case([=, &context](std::int64_t run) {
    m_grouped_linear_f32(
        {.a = bench->of_rows(bench->a, DType::f32, problem.k),
         .b = bench->weights_of(run),
         .b_scale = scaled ? std::span<const TensorView>(bench->scales) : std::span<const TensorView>(),
         .rows = bench->rows,
         .out = bench->of_rows(bench->out, DType::f32, problem.n)},
        context);
  });
}

}  // namespace fathom
