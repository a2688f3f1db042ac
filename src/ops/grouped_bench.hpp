// What the benches of the grouped matrix products share: rows spread evenly over the groups, weights from
// memory.
#pragma once
#include <algorithm>
#include <memory>
#include <vector>

#include "bench.hpp"
#include "fathom/ops/grouped.hpp"

namespace fathom {

template <class Problem>
struct GroupedBench {
  GroupedBench(const Problem& problem_, DType a_dtype, DType b_dtype, DType out_dtype)
      : problem((bench_at_least(problem_.op, "groups", problem_.groups, 1), problem_)),
        arithmetic(a_dtype),
        masked(problem.layout == GroupLayout::masked),
        all_rows(masked ? problem.groups * problem.rows : problem.rows),
        k_blocks((problem.k + 127) / 128),
        weight_bytes(problem.groups * problem.n * problem.k * size_of(b_dtype)),
        copies(cold_copies(weight_bytes)),
        a(bench_normal(a_dtype, {all_rows, problem.k})),
        a_scale(bench_normal(DType::f32, {all_rows, k_blocks})),
        b(bench_normal(b_dtype, {copies, problem.groups, problem.n, problem.k})),
        b_scale(bench_normal(DType::f32, {problem.groups, (problem.n + 127) / 128, k_blocks})),
        out(bench_buffer(all_rows * problem.n * size_of(out_dtype))),
        index(bench_buffer((all_rows + problem.groups + 1) * size_of(DType::i32))),
        scales(split_groups(b_scale->view(DType::f32, {problem.groups, (problem.n + 127) / 128, k_blocks}))) {
    for (const TensorView& copy :
         split_groups(b->view(b_dtype, {copies, problem.groups, problem.n, problem.k}))) {
      weights.push_back(split_groups(copy));
    }
    spread_rows();
    if constexpr (requires { problem.expected_m; }) rows.expected_m = problem.expected_m;
  }

  TensorView of_rows(const std::shared_ptr<BenchBuffer>& buffer, DType dtype, std::int64_t width) const {
    return masked ? buffer->view(dtype, {problem.groups, problem.rows, width})
                  : buffer->view(dtype, {problem.rows, width});
  }
  /// The weights of one run: another copy each time.
  std::span<const TensorView> weights_of(std::int64_t run) const {
    return weights[static_cast<std::size_t>(run % copies)];
  }
  BenchCase bench_case(std::function<void(std::int64_t)> run) const {
    const std::int64_t valid = all_valid_rows();
    const double rows_bytes = static_cast<double>(a->size() + a_scale->size() + out->size()) *
                              static_cast<double>(valid) /
                              static_cast<double>(std::max<std::int64_t>(all_rows, 1));
    return {.problem = problem_string(problem),
            .bytes = rows_bytes + static_cast<double>(weight_bytes + b_scale->size()),
            .flops = 2.0 * static_cast<double>(valid * problem.n) * static_cast<double>(problem.k),
            .arithmetic = arithmetic,
            .run = std::move(run)};
  }

  bool expects() const {
    if constexpr (requires { problem.expected_m; }) return problem.expected_m > 0;
    return false;
  }
  // Of a masked group: all, or, as of one between offsets, around an expected count, from 0.7 to 1.3 of it,
  // neighbours far apart.
  std::int64_t valid_rows(std::int64_t group) const {
    if constexpr (requires { problem.expected_m; }) {
      if (problem.expected_m > 0 && problem.groups > 1) {
        const std::int64_t place = group * 7 % problem.groups;  // a permutation unless 7 divides the count
        const double factor =
            0.7 + 0.6 * static_cast<double>(place) / static_cast<double>(problem.groups - 1);
        const auto rows_here =
            static_cast<std::int64_t>(factor * static_cast<double>(problem.expected_m) + 0.5);
        return std::min(rows_here, problem.rows);
      }
      if (problem.expected_m > 0) return std::min(problem.expected_m, problem.rows);
    }
    return problem.rows;
  }
  // All that are of a group.
  std::int64_t all_valid_rows() const {
    if (problem.layout == GroupLayout::contiguous || !(masked || expects())) return all_rows;
    std::int64_t sum = 0;
    for (std::int64_t g = 0; g < problem.groups; ++g) sum += valid_rows(g);
    return std::min(sum, all_rows);
  }

  void spread_rows() {
    auto* numbers = reinterpret_cast<std::int32_t*>(index->data());
    const std::int64_t groups = problem.groups;
    if (masked) {
      for (std::int64_t g = 0; g < groups; ++g) numbers[g] = static_cast<std::int32_t>(valid_rows(g));
      rows.masked_m = index->view(DType::i32, {groups});
    } else if (problem.layout == GroupLayout::offsets) {
      std::int64_t end = 0;
      for (std::int64_t g = 0; g <= groups; ++g) {
        numbers[g] = static_cast<std::int32_t>(expects() ? end : all_rows * g / groups);
        end = std::min(end + valid_rows(g), all_rows);
      }
      rows.offsets = index->view(DType::i32, {groups + 1});
    } else {
      // Groups begin at multiples of 128 if the rows are one: so padded layouts have them.
      const std::int64_t block = all_rows % 128 == 0 ? 128 : 1;
      for (std::int64_t r = 0; r < all_rows; ++r)
        numbers[r] = static_cast<std::int32_t>(r / block * groups / (all_rows / block));
      rows.row_to_group = index->view(DType::i32, {all_rows});
    }
  }

  Problem problem;
  DType arithmetic;
  bool masked;
  std::int64_t all_rows;
  std::int64_t k_blocks;
  std::int64_t weight_bytes;
  std::int64_t copies;
  std::shared_ptr<BenchBuffer> a, a_scale, b, b_scale, out, index;
  std::vector<TensorView> scales;
  std::vector<std::vector<TensorView>> weights;  // one list for every copy
  GroupedRows rows;
};

}  // namespace fathom
