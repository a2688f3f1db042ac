// What the tests of the grouped matrix products share: random problems of every layout and their naive
// solution.
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "fathom/ops/grouped.hpp"
#include "ops/elements.hpp"
#include "ops/op_test.hpp"

namespace fathom {

struct GroupedShape {
  GroupLayout layout = GroupLayout::offsets;
  std::int64_t rows = 1;  // of all groups; masked: max_m
  std::int64_t n = 1;
  std::int64_t k = 1;
  std::vector<int> index;  // row_to_group, offsets or masked_m
};

/// Operands of one grouped product. Rows that belong to no group are NaN, and so is all of out: neither may
/// reach a row that counts.
class GroupedCase {
 public:
  GroupedCase(DType a_dtype, DType b_dtype, DType out_dtype, const GroupedShape& shape_, std::int64_t groups_,
              std::int64_t seed)
      : shape(shape_),
        groups(groups_),
        blocks(shape.layout == GroupLayout::masked ? groups : 1),
        k_groups((shape.k + 127) / 128),
        random(seed),
        a(random.normal(a_dtype, {blocks * shape.rows, shape.k})),
        a_scale(random.uniform(DType::f32, {blocks * shape.rows, k_groups}, 0.5, 2)),
        b(random.normal(b_dtype, {groups, shape.n, shape.k})),
        b_scale(random.uniform(DType::f32, {groups, (shape.n + 127) / 128, k_groups}, 0.5, 2)),
        index(tensor_of<int>(DType::i32, {static_cast<std::int64_t>(shape.index.size())}, shape.index)),
        out(poisoned(out_dtype, {blocks * shape.rows, shape.n})),
        weights(split_groups(b)),
        scales(split_groups(b_scale)) {
    for (std::int64_t r = 0; r < blocks * shape.rows; ++r) {
      if (group_of(r) >= 0) continue;
      for (std::int64_t i = 0; i < shape.k; ++i) a.set(r * shape.k + i, std::nan(""));
      for (std::int64_t i = 0; i < k_groups; ++i) a_scale.set(r * k_groups + i, std::nan(""));
    }
  }

  GroupedRows rows() const {
    GroupedRows result;
    (shape.layout == GroupLayout::contiguous ? result.row_to_group
     : shape.layout == GroupLayout::offsets  ? result.offsets
                                             : result.masked_m) = index;
    return result;
  }

  /// A tensor of all rows as the layout wants it.
  TensorView of_rows(const Tensor& t) const {
    const std::int64_t width = t.view().size(1);
    return shape.layout == GroupLayout::masked
               ? TensorView::contiguous(t.view().data, t.view().dtype, {groups, shape.rows, width})
               : t.view();
  }

  /// The group of row r, where masked blocks follow one another; -1 if it has none.
  std::int64_t group_of(std::int64_t r) const {
    if (shape.layout == GroupLayout::contiguous) return shape.index[static_cast<std::size_t>(r)];
    for (std::int64_t g = 0; g < groups; ++g) {
      const auto i = static_cast<std::size_t>(g);
      const bool masked = shape.layout == GroupLayout::masked;
      const std::int64_t begin = masked ? g * shape.rows : shape.index[i];
      const std::int64_t end = masked ? begin + shape.index[i] : shape.index[i + 1];
      if (r >= begin && r < end) return g;
    }
    return -1;
  }

  /// Compares out with plain loops in double; rows without a group must still be poisoned.
  void check(bool with_a_scale, bool with_b_scale) const {
    Tensor expected(DType::f32, {1, shape.n});
    Tensor bound(DType::f32, {1, shape.n});
    const double rounding = out.view().dtype == DType::bf16 ? 0x1p-8 : 0x1p-23;
    for (std::int64_t r = 0; r < blocks * shape.rows; ++r) {
      const std::int64_t g = group_of(r);
      if (g < 0) {
        for (std::int64_t j = 0; j < shape.n; ++j)
          ASSERT_TRUE(std::isnan(out[r * shape.n + j])) << "row " << r;
        continue;
      }
      for (std::int64_t j = 0; j < shape.n; ++j) {
        double sum = 0;
        double size = 0;
        for (std::int64_t i = 0; i < shape.k; ++i) {
          double term = a[r * shape.k + i] * b[(g * shape.n + j) * shape.k + i];
          if (with_a_scale) term *= a_scale[r * k_groups + i / 128];
          if (with_b_scale) term *= b_scale[(g * ((shape.n + 127) / 128) + j / 128) * k_groups + i / 128];
          sum += term;
          size += std::abs(term);
        }
        expected.set(j, sum);
        bound.set(j, rounding * std::abs(sum) + static_cast<double>(shape.k + 4) * 0x1p-24 * size);
      }
      SCOPED_TRACE(testing::Message() << "row " << r << " of group " << g);
      expect_within(
          TensorView::contiguous(out.view().as<std::byte>() + r * shape.n * size_of(out.view().dtype),
                                 out.view().dtype, {1, shape.n}),
          expected, bound);
      if (testing::Test::HasFailure()) return;
    }
  }

  GroupedShape shape;
  std::int64_t groups;
  std::int64_t blocks;
  std::int64_t k_groups;
  Random random;
  Tensor a;
  Tensor a_scale;
  Tensor b;
  Tensor b_scale;
  Tensor index;
  Tensor out;
  std::vector<TensorView> weights;
  std::vector<TensorView> scales;
};

/// Four groups in every layout: none, one and many rows to a group, offsets of any alignment that neither
/// begin at 0 nor end at the last row, rows of a group that are not neighbours.
inline std::vector<GroupedShape> grouped_shapes() {
  std::vector<int> odd(37);
  for (std::size_t r = 0; r < odd.size(); ++r) odd[r] = static_cast<int>(r * 7 % 5) - 1;
  std::vector<int> sorted(70, 3);
  std::fill(sorted.begin(), sorted.begin() + 5, 0);
  std::fill(sorted.begin() + 5, sorted.begin() + 9, -1);
  return {{GroupLayout::offsets, 4, 17, 64, {0, 1, 2, 3, 4}},
          {GroupLayout::offsets, 41, 129, 200, {3, 3, 4, 20, 37}},
          {GroupLayout::offsets, 65, 40, 128, {0, 0, 65, 65, 65}},
          {GroupLayout::offsets, 0, 8, 128, {0, 0, 0, 0, 0}},
          {GroupLayout::contiguous, 37, 130, 256, odd},
          {GroupLayout::contiguous, 70, 33, 384, sorted},
          {GroupLayout::contiguous, 3, 8, 128, {-1, -1, -1}},
          {GroupLayout::masked, 8, 128, 300, {1, 0, 8, 3}},
          {GroupLayout::masked, 80, 48, 96, {0, 70, 0, 1}},
          {GroupLayout::masked, 0, 8, 128, {0, 0, 0, 0}},
          {GroupLayout::masked, 2, 5, 1, {2, 2, 1, 0}}};
}

/// Runs `call(case, a, rows, out, context)` on all rows with two threads, then on each row alone as a problem
/// of one row with one thread: the same bytes.
template <class Call>
void check_rows_alone(GroupedCase& problem, const Call& call) {
  call(problem, problem.of_rows(problem.a), problem.of_rows(problem.a_scale), problem.rows(),
       problem.of_rows(problem.out), test_context(2));
  const Tensor group = tensor_of<int>(DType::i32, {1}, {0});
  Tensor alone = poisoned(problem.out.view().dtype, {1, problem.shape.n});
  for (std::int64_t r = 0; r < problem.blocks * problem.shape.rows; ++r) {
    const std::int64_t g = problem.group_of(r);
    if (g < 0) continue;
    group.as<std::int32_t>()[0] = static_cast<std::int32_t>(g);
    call(problem, problem.a.view().rows(r, r + 1), problem.a_scale.view().rows(r, r + 1),
         GroupedRows{.row_to_group = group}, alone.view(), test_context(1));
    expect_same_bytes(problem.out.view().rows(r, r + 1), alone);
  }
}

}  // namespace fathom
