// Scores of the indexer over the paged cache: decode, verification, draft extension.
#pragma once
#include "fathom/core/context.hpp"
#include "fathom/core/problem.hpp"
#include "fathom/core/tensor.hpp"
#include "fathom/ops/index_key_store.hpp"  // the layout of the cache

namespace fathom {

struct PagedMqaLogitsProblem {
  static constexpr std::string_view op = "paged_mqa_logits";
  std::int64_t batch = 1;
  std::int64_t next_n = 1;
  std::int64_t heads = 64;
  std::int64_t head_dim = kIndexKeyDim;
  std::int64_t max_len = 4096;
  DType q = DType::f8e4m3;
  std::int64_t page = kIndexKeyPageTokens;
  bool flattened = false;  // no context_lens of [batch, next_n]: every row goes by row_lens
  bool aligned = true;     // to 16 bytes, on a device; no part of the problem string

  template <class V>
  void fields(V& visit) {
    visit("batch", batch);
    visit("next_n", next_n);
    visit("heads", heads);
    visit("head_dim", head_dim);
    visit("max_len", max_len);
    visit("q", q);
    visit("page", page);
    visit("flattened", flattened);
  }
  bool operator==(const PagedMqaLogitsProblem&) const = default;
};

struct PagedMqaLogitsArgs {
  TensorView q;             // [batch, next_n, heads, head_dim]
  TensorView cache;         // [pages, page * (head_dim + 4)] u8 or [pages, page, head_dim] f32
  TensorView weights;       // [batch * next_n, heads]
  TensorView context_lens;  // [batch, next_n]
  TensorView block_table;   // [batch, max_pages] or [batch * next_n, max_pages]
  TensorView schedule;      // [workers + 1, 2], optional
  TensorView logits;        // [batch * next_n, max_len], written
  TensorView row_lens;      // [batch * next_n], optional
};

/// Scores next_n query tokens of every request against the keys they see, as mqa_logits does:
///
///   logits[b * next_n + i, j] = scale[j] * sum_h weights[.., h] * max(0, dot(q[b, i, h, :], key[j]))
///                               for j < context_lens[b, i], -infinity for the rest of the row
///
/// with key[j] and scale[j] entry j % page of page block_table[b, j / page] (scale 1 in an f32 cache); keys
/// of a page -1 have -infinity.
///
///   q             [batch, next_n, heads, head_dim]  f8e4m3 with a u8 cache, else f32
///   cache         [pages, page * (head_dim + 4)]    u8, see index_key_store; pages may be strided
///                 [pages, page, head_dim]           or f32
///   weights       [batch * next_n, heads]           f32; they carry the scale of q
///   context_lens  [batch, next_n]                   i32; negative counts as 0; at most max_len
///   block_table   [batch, max_pages]                i32; rows at any distance, also 0; only used entries are
///                 [batch * next_n, max_pages]       read; or one row for each of logits, of which the first
///                                                   of every request is read: a view, no copy
///   schedule      [workers + 1, 2]                  i32, of paged_mqa_schedule for the same context_lens;
///                                                   may be left out: the result does not depend on it
///   logits        [batch * next_n, max_len]         f32; rows at any distance
///   row_lens      [batch * next_n]                  i32, the lengths where context_lens is left out or has
///                                                   another shape; the schedule is then that of [rows, 1]
///
/// With context_lens a page is read once for all next_n tokens. By row_lens every draft is scored by itself:
/// a fallback that Context::fallbacks() counts, with the same bytes. A score has the bytes that mqa_logits
/// gives, whatever next_n, the batch, the schedule and the threads.
/// Throws InvalidArgument if a shape or dtype differs, a length exceeds max_len or page * max_pages, a block
/// table entry in use is neither a page of the cache nor -1, or the schedule was built for other lengths;
/// nothing is written then. On a device, where none of this is looked at, the schedule is not used, lengths
/// end with the logits and the table, and what is no page counts as -1.
void paged_mqa_logits(const PagedMqaLogitsArgs& args, const Context& context);

}  // namespace fathom
