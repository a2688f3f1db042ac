// What the grouped matrix products share: how rows belong to groups, and one weight matrix per group.
#pragma once
#include <vector>

#include "fathom/core/problem.hpp"
#include "fathom/core/tensor.hpp"

namespace fathom {

/// contiguous: every row names its group. offsets: group g has rows [offsets[g], offsets[g+1]).
/// masked: every group has a block of max_m rows, of which the first masked_m[g] count.
enum class GroupLayout : std::uint8_t { contiguous, offsets, masked };
std::string_view to_string(GroupLayout layout);
bool parse_enum(std::string_view text, GroupLayout& layout);

/// Exactly one of the three tensors is given; it chooses the layout. On a CUDA device what it holds is read
/// by the kernels alone, so nothing waits for the host, and cannot be refused: ids outside of [0, groups) are
/// taken as -1, counts are brought into [0, max_m], offsets into [0, rows], and a group whose end lies before
/// its begin is empty.
struct GroupedRows {
  TensorView row_to_group;  // [rows] i32; -1: the row is left alone. Rows of a group need not be neighbours
  TensorView offsets;       // [groups+1] i32, ascending, any alignment
  TensorView masked_m;      // [groups] i32, at most max_m
  std::int64_t expected_m = 0;  // a guess of the usual rows of a group, for speed only; 0: none
};

/// [groups, n, k] as groups views [n, k]: the form in which grouped products take weights, so that tensors of
/// a mapped file can be used where they lie.
std::vector<TensorView> split_groups(const TensorView& stacked);

}  // namespace fathom
