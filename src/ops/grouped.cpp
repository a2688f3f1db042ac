// Checks the grouped matrix products share.
#include "ops/grouped.hpp"

#include <string>

#include "fathom/core/error.hpp"

namespace fathom {
namespace {
std::string range(std::int64_t low, std::int64_t high) {
  return "be in [" + std::to_string(low) + "," + std::to_string(high) + "]";
}
std::int32_t value(const TensorView& t, std::int64_t i) { return t.as<std::int32_t>()[i * t.step(0)]; }
}  // namespace

std::string_view to_string(GroupLayout layout) {
  switch (layout) {
    case GroupLayout::contiguous:
      return "contiguous";
    case GroupLayout::offsets:
      return "offsets";
    case GroupLayout::masked:
      break;
  }
  return "masked";
}

bool parse_enum(std::string_view text, GroupLayout& layout) {
  for (const GroupLayout candidate : {GroupLayout::contiguous, GroupLayout::offsets, GroupLayout::masked}) {
    if (to_string(candidate) != text) continue;
    layout = candidate;
    return true;
  }
  return false;
}

std::vector<TensorView> split_groups(const TensorView& stacked) {
  Expect{"split_groups"}.that(stacked.rank >= 1, "stacked", "have at least 1 axis", stacked);
  std::vector<TensorView> groups(static_cast<std::size_t>(stacked.size(0)), stacked);
  std::int64_t g = 0;
  for (TensorView& group : groups) {
    group.data = stacked.as<std::byte>() + g++ * stacked.step(0) * size_of(stacked.dtype);
    group.rank = stacked.rank - 1;
    for (std::size_t axis = 0; axis + 1 < kMaxRank; ++axis) {
      group.shape[axis] = stacked.shape[axis + 1];
      group.stride[axis] = stacked.stride[axis + 1];
    }
  }
  return groups;
}

GroupLayout group_layout(const Expect& expect, const GroupedRows& rows) {
  const int given = static_cast<int>(rows.row_to_group.given()) + static_cast<int>(rows.offsets.given()) +
                    static_cast<int>(rows.masked_m.given());
  if (given != 1)
    expect.fail("rows", "give one of row_to_group, offsets and masked_m", std::to_string(given));
  if (rows.masked_m.given()) return GroupLayout::masked;
  return rows.offsets.given() ? GroupLayout::offsets : GroupLayout::contiguous;
}

void check_grouped_rows(const Expect& expect, GroupLayout layout, const GroupedRows& rows,
                        std::int64_t groups, std::int64_t count) {
  const bool readable = expect.device.kind == DeviceKind::host;
  switch (layout) {
    case GroupLayout::contiguous:
      expect.tensor("row_to_group", rows.row_to_group, {DType::i32}, {count});
      if (!readable) return;
      for (std::int64_t r = 0; r < count; ++r) {
        const std::int64_t group = value(rows.row_to_group, r);
        if (group >= -1 && group < groups) continue;
        expect.fail("row_to_group", range(-1, groups - 1),
                    std::to_string(group) + " at row " + std::to_string(r));
      }
      return;
    case GroupLayout::offsets: {
      expect.tensor("offsets", rows.offsets, {DType::i32}, {groups + 1});
      if (!readable) return;
      std::int64_t last = 0;
      for (std::int64_t g = 0; g <= groups; ++g) {
        const std::int64_t offset = value(rows.offsets, g);
        if (offset < last || offset > count) {
          expect.fail("offsets", "ascend within [0," + std::to_string(count) + "]",
                      std::to_string(offset) + " at group " + std::to_string(g));
        }
        last = offset;
      }
      return;
    }
    case GroupLayout::masked:
      expect.tensor("masked_m", rows.masked_m, {DType::i32}, {groups});
      if (!readable) return;
      for (std::int64_t g = 0; g < groups; ++g) {
        const std::int64_t m = value(rows.masked_m, g);
        if (m >= 0 && m <= count) continue;
        expect.fail("masked_m", range(0, count), std::to_string(m) + " for group " + std::to_string(g));
      }
      return;
  }
}

void check_expert_ids(const Expect& expect, const TensorView& ids, std::int64_t experts) {
  for (std::int64_t t = 0; t < ids.size(0); ++t) {
    for (std::int64_t slot = 0; slot < ids.size(1); ++slot) {
      const std::int32_t id = ids.as<std::int32_t>()[t * ids.step(0) + slot];
      if (id >= -1 && id < experts) continue;
      expect.fail(
          "ids", "be in [-1," + std::to_string(experts) + ")",
          std::to_string(id) + " for slot " + std::to_string(slot) + " of token " + std::to_string(t));
    }
  }
}

void check_row_tensor(const Expect& expect, std::string_view name, const TensorView& tensor,
                      std::initializer_list<DType> dtypes, GroupLayout layout, std::int64_t groups,
                      std::int64_t count, std::int64_t width) {
  expect.dtype(name, tensor, dtypes);
  if (layout == GroupLayout::masked) {
    expect.shape(name, tensor, {groups, count, width});
  } else {
    expect.shape(name, tensor, {count, width});
  }
  expect.on_device(name, tensor);
  if (tensor.data == nullptr && tensor.count() > 0) expect.fail(name, "have data", "a null pointer");
}

void check_group_matrices(const Expect& expect, std::string_view name, std::span<const TensorView> matrices,
                          std::initializer_list<DType> dtypes, std::int64_t groups, std::int64_t n,
                          std::int64_t k) {
  if (static_cast<std::int64_t>(matrices.size()) != groups) {
    expect.fail(name, "have " + std::to_string(groups) + " groups", std::to_string(matrices.size()));
  }
  for (const TensorView& matrix : matrices) {
    // Hundreds of experts in every call of every layer: the good case is a few comparisons.
    const bool good = &matrix != &matrices[0] && matrix.dtype == matrices[0].dtype && matrix.rank == 2 &&
                      matrix.shape[0] == n && matrix.shape[1] == k && matrix.stride[1] == 1 &&
                      matrix.device == expect.device && matrix.data != nullptr;
    if (good) continue;
    expect.tensor(name, matrix, dtypes, {n, k});
    expect.dtype(name, matrix, {matrices[0].dtype});
  }
}

bool equally_spaced(std::span<const TensorView> matrices) {
  if (matrices.size() <= 1) return true;
  const TensorView& first = matrices[0];
  const auto address = [](const TensorView& t) { return reinterpret_cast<std::uintptr_t>(t.data); };
  const std::uintptr_t distance = address(matrices[1]) - address(first);  // modulo 2^64 if they descend
  std::uintptr_t expected = address(first);
  for (const TensorView& matrix : matrices) {
    if (address(matrix) != expected) return false;
    if (matrix.size(0) > 1 && matrix.step(0) != first.step(0)) return false;
    expected += distance;
  }
  return true;
}

}  // namespace fathom
