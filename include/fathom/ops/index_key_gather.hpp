// Reads the indexer's keys of whole requests out of their paged cache.
#pragma once
#include "fathom/core/context.hpp"
#include "fathom/core/problem.hpp"
#include "fathom/core/tensor.hpp"
#include "fathom/ops/index_key_store.hpp"  // the layout of the cache

namespace fathom {

struct IndexKeyGatherProblem {
  static constexpr std::string_view op = "index_key_gather";
  std::int64_t batch = 1;
  std::int64_t keys = 2048;
  std::int64_t dim = kIndexKeyDim;
  DType cache = DType::u8;
  std::int64_t page = kIndexKeyPageTokens;

  template <class V>
  void fields(V& visit) {
    visit("batch", batch);
    visit("keys", keys);
    visit("dim", dim);
    visit("cache", cache);
    visit("page", page);
  }
  bool operator==(const IndexKeyGatherProblem&) const = default;
};

struct IndexKeyGatherArgs {
  TensorView cache;        // [pages, page * (dim + 4)] u8 or [pages, page, dim] f32
  TensorView block_table;  // [batch, max_pages]
  TensorView lens;         // [batch]
  TensorView keys;         // [total, dim], written
  TensorView scales;       // [total], written; u8 cache only
};

/// Copies the first lens[b] keys of every request b, one request after the other.
///
///   cache        [pages, page * (dim + 4)] u8 or [pages, page, dim] f32, see index_key_store; pages may be
///                                    strided
///   block_table  [batch, max_pages]  i32, the page of every `page` positions or -1; rows may be strided
///   lens         [batch]             i32, not negative
///   keys         [total, dim]        f8e4m3 (u8 cache) or f32, total = the sum of lens
///   scales       [total]             f32, contiguous; u8 cache only
///
/// The ragged mqa_logits takes the result. Block table entries beyond a request's length are not read; keys
/// of a page -1 are zeros with scale 0. Throws InvalidArgument if a shape or dtype differs, lens do not sum
/// to `total` or need more than max_pages, or another block table entry in use is no page of the cache;
/// nothing is written then. On a device, where neither is looked at, keys beyond `total` are dropped, rows
/// beyond the sum of lens stay as they are, and what is no page counts as -1.
void index_key_gather(const IndexKeyGatherArgs& args, const Context& context);

}  // namespace fathom
