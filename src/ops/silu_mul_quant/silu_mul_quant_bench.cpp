#include <algorithm>

#include "bench.hpp"
#include "fathom/ops/silu_mul_quant.hpp"

namespace fathom {

// With experts, every row of every expert is valid.
BenchCase silu_mul_quant_bench(std::string_view text, const Context& context) {
  const auto problem = parse_problem<SiluMulQuantProblem>(text);
  const bool masked = problem.experts > 0;
  const std::int64_t experts = masked ? problem.experts : 1;
  const std::int64_t groups = scale_groups(problem.dim);
  const auto gate_up = bench_normal(problem.gate_up, {experts, problem.rows, 2 * problem.dim}, 3);
  const auto q = bench_buffer(experts * problem.rows * problem.dim);
  const auto scale = bench_buffer(experts * scale_bytes(problem.scale_layout, problem.rows, groups));
  const auto masked_m = bench_buffer(experts * 4);
  std::fill_n(reinterpret_cast<std::int32_t*>(masked_m->data()), experts,
              static_cast<std::int32_t>(problem.rows));
  SiluMulQuantArgs args{.scale_format = problem.scale_format,
                        .scale_layout = problem.scale_layout,
                        .swizzled = problem.swizzled};
  if (problem.clamp) args.clamp_limit = 10.0f;
  if (masked) {
    args.gate_up = gate_up->view(problem.gate_up, {experts, problem.rows, 2 * problem.dim});
    args.q = q->view(DType::f8e4m3, {experts, problem.rows, problem.dim});
    args.scale = scale->place(scale_view(nullptr, problem.scale_layout, experts, problem.rows, groups));
    args.masked_m = masked_m->view(DType::i32, {experts});
  } else {
    args.gate_up = gate_up->view(problem.gate_up, {problem.rows, 2 * problem.dim});
    args.q = q->view(DType::f8e4m3, {problem.rows, problem.dim});
    args.scale = scale->place(scale_view(nullptr, problem.scale_layout, problem.rows, groups));
  }
  return {.problem = problem_string(problem),
          .bytes = static_cast<double>(gate_up->size() + q->size() + scale->size()),
          .run = [=, &context](std::int64_t) {
            // The lambda's copies of the buffers keep the views of args alive.
            static_cast<void>(gate_up), static_cast<void>(q), static_cast<void>(scale);
            static_cast<void>(masked_m);
            silu_mul_quant(args, context);
          }};
}

}  // namespace fathom
