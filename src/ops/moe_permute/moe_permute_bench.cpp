// The bench of moe_permute.
#include "bench.hpp"
#include "fathom/ops/moe_permute.hpp"

namespace fathom {

BenchCase moe_permute_bench(std::string_view text, const Context& context) {
  auto problem = parse_problem<MoePermuteProblem>(text);
  bench_at_least(problem.op, "groups", problem.groups, 1);
  bench_at_least(problem.op, "alignment", problem.alignment, 1);
  const auto [tokens, top_k, groups] = std::tuple(problem.tokens, problem.top_k, problem.groups);
  problem.rows =
      problem.masked ? moe_masked_rows(tokens) : moe_permute_rows(tokens, top_k, groups, problem.alignment);
  const std::int64_t all_rows = problem.masked ? groups * problem.rows : problem.rows;
  const auto x = bench_normal(problem.x, {tokens, problem.dim});
  const auto x_scale = bench_normal(DType::f32, {tokens, problem.scales});
  const auto out = bench_buffer(all_rows * problem.dim * size_of(problem.x));
  const auto out_scale = bench_buffer(all_rows * problem.scales * size_of(DType::f32));
  const auto index = bench_buffer(tokens * top_k * size_of(DType::i32));
  const auto slots = bench_buffer(tokens * top_k * size_of(DType::i32));
  const auto masked_m = bench_buffer(groups * size_of(DType::i32));
  auto* ids = reinterpret_cast<std::int32_t*>(index->data());
  for (std::int64_t i = 0; i < tokens * top_k; ++i) ids[i] = static_cast<std::int32_t>(i * 7 % groups);
  const auto view = [=](const std::shared_ptr<BenchBuffer>& buffer, DType dtype, std::int64_t width) {
    return problem.masked ? buffer->view(dtype, {groups, problem.rows, width})
                          : buffer->view(dtype, {problem.rows, width});
  };
  const double row = static_cast<double>(problem.dim * size_of(problem.x) + problem.scales * 4);
  return {.problem = problem_string(problem),
          .bytes = row * static_cast<double>(tokens * (1 + top_k)),
          .flops = 0,
          .run = [=, &context](std::int64_t) {
            MoePermuteArgs args{.ids = index->view(DType::i32, {tokens, top_k}),
                                .x = x->view(problem.x, {tokens, problem.dim}),
                                .groups = groups,
                                .alignment = problem.alignment,
                                .out = view(out, problem.x, problem.dim),
                                .slot_to_row = slots->view(DType::i32, {tokens, top_k}),
                                .masked_m = masked_m->view(DType::i32, {groups})};
            if (problem.scales > 0) {
              args.x_scale = x_scale->view(DType::f32, {tokens, problem.scales});
              args.out_scale = view(out_scale, DType::f32, problem.scales);
            }
            moe_permute(args, context);
          }};
}

}  // namespace fathom
