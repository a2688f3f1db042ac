// The positions of the k largest scores of every row.
#pragma once
#include "fathom/core/context.hpp"
#include "fathom/core/problem.hpp"
#include "fathom/core/tensor.hpp"

namespace fathom {

/// What is written for a selected position p of row r.
enum class TopKTransform : std::uint8_t {
  plain,   ///< p
  paged,   ///< block_table[t, p / page] * page + p % page with t the row's request: a cache slot
  ragged,  ///< p + offsets[r]
};
std::string_view to_string(TopKTransform transform);
bool parse_enum(std::string_view text, TopKTransform& transform);

struct TopKProblem {
  static constexpr std::string_view op = "top_k";
  std::int64_t rows = 1;
  std::int64_t n = 16384;
  std::int64_t k = 2048;
  TopKTransform transform = TopKTransform::plain;
  std::int64_t page = 64;

  template <class V>
  void fields(V& visit) {
    visit("rows", rows);
    visit("n", n);
    visit("k", k);
    visit("transform", transform);
    visit("page", page);
  }
  bool operator==(const TopKProblem&) const = default;
};

struct TopKArgs {
  TensorView scores;   // [rows, n]; may be left out if no length exceeds k
  TensorView lengths;  // [rows]
  TensorView starts;   // [rows], optional: 0
  TopKTransform transform = TopKTransform::plain;
  TensorView block_table;  // [requests, max_pages], paged only
  TensorView requests;     // [rows], paged only, optional: row / (rows / requests)
  TensorView offsets;      // [rows], ragged only
  TensorView out;          // [rows, k], written
  std::int64_t page = 64;  // tokens of a page: 16, 32, 64 or 128; paged only
};

/// Selects, of every row, the min(k, length) positions with the largest scores among
/// scores[r, start .. start + length), counted from start, in ascending order; then -1.
///
///   scores       [rows, n]              f32; rows may be strided
///   lengths      [rows]                 i32; negative counts as 0
///   starts       [rows]                 i32
///   block_table  [requests, max_pages]  i32, a page or -1, which makes -1 of its positions; rows may be
///                                       strided; read for selected positions only
///   requests     [rows]                 i32, the block table's row of every row
///   offsets      [rows]                 i32
///   out          [rows, k]              i32
///
/// Always the true top k, whatever the scores: of equal scores the lower position wins (-0 equals 0),
/// -infinity is a score like any other, and NaN ranks below it. Scores outside of a row's range are not read;
/// none is read if length <= k. Rows are independent of one another and of the thread count. Throws
/// InvalidArgument if a shape or dtype differs, a range leaves the row, a position that is selected or could
/// be has no block table entry, or a request is none of the table's; nothing is written then. On a device,
/// where none of this is looked at, ranges end with the row and positions without an entry give -1.
void top_k(const TopKArgs& args, const Context& context);

}  // namespace fathom
