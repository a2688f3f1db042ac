// The positions that every query token attends to: the indexer's scores and the choice among them.
#pragma once
#include "fathom/core/context.hpp"
#include "fathom/core/problem.hpp"
#include "fathom/core/tensor.hpp"
#include "fathom/ops/top_k.hpp"

namespace fathom {

struct IndexSelectProblem {
  static constexpr std::string_view op = "index_select";
  std::int64_t rows = 1;  // query tokens
  std::int64_t next_n = 1;
  std::int64_t heads = 64;
  std::int64_t head_dim = 128;
  std::int64_t columns = 16384;
  std::int64_t k = 2048;
  DType q = DType::f8e4m3;
  bool paged = true;  // keys come from the paged cache
  std::int64_t page = 64;
  TopKTransform transform = TopKTransform::plain;
  std::int64_t chunk = 1;  // rows of the workspace

  template <class V>
  void fields(V& visit) {
    visit("rows", rows);
    visit("next_n", next_n);
    visit("heads", heads);
    visit("head_dim", head_dim);
    visit("columns", columns);
    visit("k", k);
    visit("q", q);
    visit("paged", paged);
    visit("page", page);
    visit("transform", transform);
    visit("chunk", chunk);
  }
  bool operator==(const IndexSelectProblem&) const = default;
};

struct IndexSelectArgs {
  TensorView q;        // [rows, heads, head_dim] ragged, [batch, next_n, heads, head_dim] paged
  TensorView weights;  // [rows, heads]
  TensorView k, k_scale, first, last;           // ragged: as mqa_logits takes them
  TensorView cache, context_lens, block_table;  // paged: as paged_mqa_logits takes them
  TensorView lengths;                           // [rows]
  TopKTransform transform = TopKTransform::plain;
  TensorView requests;     // [rows], ragged with the transform paged, which takes block_table too
  TensorView offsets;      // [rows], transform ragged only
  std::int64_t page = 64;  // of block_table, ragged with the transform paged
  TensorView workspace;    // [chunk, columns]
  TensorView out;          // [rows, top_k], written
};

/// top_k of mqa_logits or paged_mqa_logits, whose contracts hold for what they share with this op:
///
///   ragged   out = top_k(mqa_logits(q, k, ..), lengths, starts = first)        positions count from `first`
///   paged    out = top_k(paged_mqa_logits(q, cache, ..), lengths)
///
///   lengths    [rows]            i32: how many scores a row chooses among; ragged: last - first. Paged calls
///                                without context_lens of [batch, next_n] are scored by these, see row_lens
///   workspace  [chunk, columns]  f32, rows at any distance; holds scores of so many rows at a time (whole
///                                requests; at least one), and nothing of use afterwards. columns: the keys
///                                of a ragged call; what no length of a paged one exceeds
///   out        [rows, top_k]     i32
///
/// The size of the workspace bounds the memory: rows are taken in chunks, and no byte of `out` depends on how
/// many. On a device nothing is allocated or waited for, so that a call can be recorded in a graph. Throws
/// what those ops throw, before anything is written.
void index_select(const IndexSelectArgs& args, const Context& context);

/// Rows of a workspace of up to `bytes`, whole requests: at least one request, at most all rows.
std::int64_t index_select_chunk(const IndexSelectProblem& problem, std::int64_t bytes);

}  // namespace fathom
