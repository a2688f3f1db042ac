// Checks and loops the grouped matrix products share.
#pragma once
#include <span>
#include <string_view>

#include "fathom/ops/grouped.hpp"
#include "ops/validate.hpp"

namespace fathom {

/// The layout `rows` chooses. Throws unless exactly one of its tensors is given.
GroupLayout group_layout(const Expect& expect, const GroupedRows& rows);

/// Checks the one tensor given, on the host with its values: `count` is the number of rows, or max_m in the
/// masked layout.
void check_grouped_rows(const Expect& expect, GroupLayout layout, const GroupedRows& rows,
                        std::int64_t groups, std::int64_t count);

/// Throws unless every one of ids [tokens, slots] i32, on the host, is an expert's number or -1.
void check_expert_ids(const Expect& expect, const TensorView& ids, std::int64_t experts);

/// A tensor of rows: [count, width], or [groups, count, width] in the masked layout. Its last axis may have
/// any stride (scales); callers that need neighbours check that themselves.
void check_row_tensor(const Expect& expect, std::string_view name, const TensorView& tensor,
                      std::initializer_list<DType> dtypes, GroupLayout layout, std::int64_t groups,
                      std::int64_t count, std::int64_t width);

/// One matrix of shape [n, k] and one dtype for every group, rows with unit stride.
void check_group_matrices(const Expect& expect, std::string_view name, std::span<const TensorView> matrices,
                          std::initializer_list<DType> dtypes, std::int64_t groups, std::int64_t n,
                          std::int64_t k);

/// Whether all matrices have the same distance from one another and between their rows: a stack.
bool equally_spaced(std::span<const TensorView> matrices);

/// Rows [begin, end) of a tensor as check_row_tensor admits it, as a matrix; block is 0 unless masked.
inline TensorView row_block(const TensorView& t, std::int64_t block, std::int64_t begin, std::int64_t end) {
  TensorView rows = t;
  std::int64_t index = begin * t.step(0);
  if (t.rank == 3) {
    index = block * t.step(0) + begin * t.step(1);
    rows.rank = 2;
    rows.shape = {end - begin, t.size(2)};
    rows.stride = {t.step(1), t.step(2)};
  }
  rows.shape[0] = end - begin;
  rows.data = t.as<std::byte>() + index * size_of(t.dtype);
  return rows;
}

/// Calls run(group, block, begin, end) for every maximal run of neighbouring rows of one group, in the order
/// of memory. `block` is the group in the masked layout and 0 otherwise.
template <class Run>
void for_each_group_run(GroupLayout layout, const GroupedRows& rows, std::int64_t groups, std::int64_t count,
                        const Run& run) {
  const auto value = [](const TensorView& t, std::int64_t i) -> std::int64_t {
    return t.as<std::int32_t>()[i * t.step(0)];
  };
  switch (layout) {
    case GroupLayout::contiguous:
      for (std::int64_t begin = 0; begin < count;) {
        const std::int64_t group = value(rows.row_to_group, begin);
        std::int64_t end = begin + 1;
        while (end < count && value(rows.row_to_group, end) == group) ++end;
        if (group >= 0) run(group, std::int64_t{0}, begin, end);
        begin = end;
      }
      return;
    case GroupLayout::offsets:
      for (std::int64_t g = 0; g < groups; ++g) {
        const std::int64_t begin = value(rows.offsets, g);
        const std::int64_t end = value(rows.offsets, g + 1);
        if (begin < end) run(g, std::int64_t{0}, begin, end);
      }
      return;
    case GroupLayout::masked:
      for (std::int64_t g = 0; g < groups; ++g) {
        const std::int64_t end = value(rows.masked_m, g);
        if (end > 0) run(g, g, std::int64_t{0}, end);
      }
      return;
  }
}

}  // namespace fathom
