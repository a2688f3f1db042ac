// The bench of m_grouped_fp8_gemm_nt: rows spread evenly over the groups, weights from memory.
#include "bench.hpp"
#include "fathom/ops/m_grouped_fp8_gemm_nt.hpp"

namespace fathom {

BenchCase m_grouped_fp8_gemm_nt_bench(std::string_view text, const Context& context) {
  const auto problem = parse_problem<MGroupedFp8GemmNtProblem>(text);
  const auto [groups, rows, n, k] = std::tuple(problem.groups, problem.rows, problem.n, problem.k);
  const bool masked = problem.layout == GroupLayout::masked;
  const std::int64_t all_rows = masked ? groups * rows : rows;
  const auto a = bench_normal(DType::f8e4m3, {all_rows, k});
  const std::int64_t k_blocks = (k + 127) / 128;
  const std::int64_t n_blocks = (n + 127) / 128;
  const auto a_scale = bench_normal(DType::f32, {all_rows, k_blocks});
  const std::int64_t weight_bytes = groups * n * k * size_of(DType::f8e4m3);
  const std::int64_t copies = cold_copies(weight_bytes);
  const auto b = bench_normal(DType::f8e4m3, {copies, groups, n, k});
  const auto b_scale = bench_normal(DType::f32, {groups, n_blocks, k_blocks});
  const auto out = std::make_shared<Buffer>(all_rows * n * size_of(problem.out));
  const auto index = std::make_shared<Buffer>((all_rows + groups + 1) * size_of(DType::i32));
  GroupedRows where;
  if (problem.layout == GroupLayout::contiguous) {
    where.row_to_group = index->view(DType::i32, {rows});
    for (std::int64_t r = 0; r < rows; ++r) {
      where.row_to_group.as<std::int32_t>()[r] = static_cast<std::int32_t>(r * groups / rows);
    }
  } else if (masked) {
    where.masked_m = index->view(DType::i32, {groups});
    for (std::int64_t g = 0; g < groups; ++g) {
      where.masked_m.as<std::int32_t>()[g] = static_cast<std::int32_t>(rows);
    }
  } else {
    where.offsets = index->view(DType::i32, {groups + 1});
    for (std::int64_t g = 0; g <= groups; ++g) {
      where.offsets.as<std::int32_t>()[g] = static_cast<std::int32_t>(rows * g / groups);
    }
  }
  std::vector<std::vector<TensorView>> weights;  // one list for every copy
  for (std::int64_t c = 0; c < copies; ++c) {
    TensorView one = b->view(DType::f8e4m3, {copies, groups, n, k}).rows(c, c + 1);
    weights.push_back(split_groups(split_groups(one)[0]));
  }
  const auto scales = split_groups(b_scale->view(DType::f32, {groups, n_blocks, k_blocks}));
  const auto of_rows = [=](const std::shared_ptr<Buffer>& buffer, DType dtype, std::int64_t width) {
    return masked ? buffer->view(dtype, {groups, rows, width}) : buffer->view(dtype, {rows, width});
  };
  return {.problem = problem_string(problem),
          .bytes = static_cast<double>(a->size() + weight_bytes + out->size()),
          .flops = 2.0 * static_cast<double>(all_rows) * static_cast<double>(n) * static_cast<double>(k),
          .run = [=, &context](std::int64_t run) {
            (void)b, (void)index, (void)b_scale;  // own what the views show
            m_grouped_fp8_gemm_nt({.a = of_rows(a, DType::f8e4m3, k),
                                   .a_scale = of_rows(a_scale, DType::f32, k_blocks),
                                   .b = weights[static_cast<std::size_t>(run % copies)],
                                   .b_scale = scales,
                                   .rows = where,
                                   .out = of_rows(out, problem.out, n)},
                                  context);
          }};
}

}  // namespace fathom
