// Products of gates and ups that are activated and quantised where they are multiplied, against the two ops.
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "fathom/ops/m_grouped_fp8_gemm_nt.hpp"
#include "fathom/ops/silu_mul_quant.hpp"
#include "on_device.hpp"
#include "ops/grouped_test.hpp"
#include "ops/sm90_grouped.hpp"

namespace fathom {
namespace {

constexpr std::int64_t kGroups = 6;

// Groups of one row, of none, of some and of more than a tile has; rows that are nobody's.
GroupedShape shape_of(GroupLayout layout, std::int64_t n, std::int64_t k) {
  const std::vector<int> counts{1, 0, 70, 150, 7, 64};
  GroupedShape shape{.layout = layout, .rows = 3, .n = n, .k = k};
  if (layout == GroupLayout::masked) {
    shape.rows = 161;
    shape.index = counts;
    return shape;
  }
  std::vector<int> ids(3, -1), offsets{3};
  for (int g = 0; g < kGroups; ++g) {
    const int count = counts[static_cast<std::size_t>(g)];
    ids.insert(ids.end(), static_cast<std::size_t>(count), g);
    offsets.push_back(offsets.back() + count);
  }
  ids.resize(ids.size() + 9, -1);
  shape.rows = std::ssize(ids);
  shape.index = layout == GroupLayout::offsets ? offsets : ids;
  return shape;
}

// Gates and ups of every size, and rows of zeros, of infinities and of what is no number.
void make_wild(GroupedCase& problem) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  for (std::int64_t i = 0; i < problem.a_scale.count(); ++i) {
    const std::int64_t row = i / problem.k_groups;
    if (problem.group_of(row) < 0) continue;
    const double factor = row % 7 == 1    ? 0
                          : row % 11 == 2 ? std::nan("")
                          : row % 13 == 3 ? 1e30
                          : row % 17 == 4 ? 1e-30
                          : row % 19 == 5 ? kInfinity
                                          : std::ldexp(1.0, static_cast<int>(row % 9) - 7);
    problem.a_scale.set(i, problem.a_scale[i] * factor);
  }
}

// The matrix of all rows as the layout wants it.
TensorView as_layout(const GroupedCase& problem, TensorView rows) {
  if (problem.shape.layout != GroupLayout::masked) return rows;
  rows.rank = 3;
  rows.shape = {kGroups, problem.shape.rows, rows.size(1)};
  rows.stride = {problem.shape.rows * rows.step(0), rows.step(0), rows.step(1)};
  return rows;
}

class ActivatedTiles : public testing::TestWithParam<GroupLayout> {};
INSTANTIATE_TEST_SUITE_P(Layouts, ActivatedTiles,
                         testing::Values(GroupLayout::offsets, GroupLayout::masked, GroupLayout::contiguous),
                         [](const auto& tested) { return std::string(to_string(tested.param)); });

TEST_P(ActivatedTiles, GiveTheBytesOfTwoLaunches) {
  const GroupLayout layout = GetParam();
  const Context& context = device_context("sm90:wgmma,cuda:simt");
  // Fewer blocks of k than a stage of scales holds, and more, the last one short.
  for (const auto& [width, k] : {std::pair<std::int64_t, std::int64_t>{128, 384}, {384, 1072}}) {
    const Seed seed;
    GroupedCase problem(DType::f8e4m3, DType::f8e4m3, DType::bf16, shape_of(layout, 2 * width, k), kGroups,
                        seed.value);
    make_wild(problem);
    const std::int64_t rows = problem.blocks * problem.shape.rows, groups = width / 128;
    const OnDevice a(problem.a), a_scale(problem.a_scale), b(problem.b), b_scale(problem.b_scale),
        index(problem.index), gate_up(problem.out);
    const std::vector<TensorView> weights = split_groups(b), scales = split_groups(b_scale);
    GroupedRows in_groups;
    (layout == GroupLayout::contiguous ? in_groups.row_to_group
     : layout == GroupLayout::offsets  ? in_groups.offsets
                                       : in_groups.masked_m) = index;
    const MGroupedFp8GemmNtArgs product{.a = as_layout(problem, a),
                                        .a_scale = as_layout(problem, a_scale),
                                        .b = weights,
                                        .b_scale = scales,
                                        .rows = in_groups,
                                        .out = as_layout(problem, gate_up)};
    const Strided q = strided(poisoned(DType::f8e4m3, {rows, width}), 16);
    const Strided scale = strided(poisoned(DType::f32, {rows, groups}), 3);
    const OnDevice expected_q(q), expected_scale(scale);
    m_grouped_fp8_gemm_nt(product, context);
    silu_mul_quant({.gate_up = gate_up, .q = expected_q, .scale = expected_scale}, context);
    const Strided want_q = expected_q.download(), want_scale = expected_scale.download();
    for (std::int64_t r = 0; r < rows; ++r) {  // what is nobody's stays as it was
      if (problem.group_of(r) >= 0) continue;
      std::memcpy(want_q.view.rows(r, r + 1).data, q.view.rows(r, r + 1).data,
                  static_cast<std::size_t>(width));
      std::memcpy(want_scale.view.rows(r, r + 1).data, scale.view.rows(r, r + 1).data,
                  static_cast<std::size_t>(4 * groups));
    }
    for (const std::int64_t expected_m : {10, 100}) {
      SCOPED_TRACE(testing::Message() << width << " outputs, k " << k << ", expected " << expected_m);
      const Sm90GroupedShape shape{.masked = layout == GroupLayout::masked,
                                   .groups = kGroups,
                                   .rows = problem.shape.rows,
                                   .n = 2 * width,
                                   .k = k,
                                   .expected_m = expected_m,
                                   .by_id = layout == GroupLayout::contiguous};
      const OnDevice device_q(q), device_scale(scale);
      launch_sm90_grouped(plan_sm90_activated(shape), shape, layout,
                          {.a = product.a,
                           .a_scale = product.a_scale,
                           .b = weights,
                           .b_scale = scales,
                           .rows = in_groups,
                           .out = as_layout(problem, device_q),
                           .out_scale = as_layout(problem, device_scale)},
                          context);
      expect_same_bytes(device_q.download().buffer, want_q.buffer);
      expect_same_bytes(device_scale.download().buffer, want_scale.buffer);
    }
  }
}

}  // namespace
}  // namespace fathom
