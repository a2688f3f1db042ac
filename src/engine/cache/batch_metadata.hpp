// What every layer of one step needs to know about the batch: lengths, positions, slots, page tables,
// schedule.
#pragma once
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "fathom/core/context.hpp"
#include "fathom/core/tensor.hpp"
#include "fathom/engine/cache.hpp"

namespace fathom {

enum class ForwardMode : std::uint8_t {
  extend,         ///< prefill: any number of new tokens of every request
  decode,         ///< one new token of every request
  target_verify,  ///< the last token and its drafts, as many of every request, scored in one pass
  draft_extend,   ///< the MTP layer over tokens just committed
  idle,           ///< no request
};
std::string_view to_string(ForwardMode mode);

/// The share of one request in a step: `extend` new tokens behind `prefix` tokens of its cache.
struct BatchRequest {
  SequenceId sequence = 0;
  std::int64_t prefix = 0;
  std::int64_t extend = 1;
};

/// Built once per step, read by every layer. Rows are the new tokens of all requests, one request after the
/// other; a row sees its request's positions 0 .. its own, so its length is its position + 1.
struct BatchMetadata {
  using Ints = std::vector<std::int32_t>;

  ForwardMode mode = ForwardMode::idle;
  std::int64_t batch = 0;
  std::int64_t rows = 0;
  std::int64_t max_seqlen_q = 0;
  std::int64_t max_seqlen_k = 0;
  std::int64_t max_pages = 0;
  bool sparse = false;  // some row sees more than index_topk tokens: the indexer must score

  // per request
  Ints extend_lens;    // [batch]
  Ints cache_seqlens;  // [batch]; the new tokens included
  Ints
      cu_seqlens_q;  // [batch + 1], of extend_lens; in target_verify and draft_extend [rows + 1]: 0, 1, 2, ..
  Ints cu_seqlens_k;  // [batch + 1], of cache_seqlens
  Ints block_table;   // [batch, max_pages]
  // per row
  Ints positions;         // [rows]
  Ints slots;             // [rows], the cache slot of the row's own entry
  Ints requests;          // [rows], the row's request
  Ints seqlens_expanded;  // [rows], the length each row sees
  Ints topk_lens;         // [rows], the same, at most index_topk
  Ints cu_topk_lens;      // [rows + 1], of topk_lens
  Ints ks, ke;      // [rows], extend only: the row's window of the keys of all requests, laid end to end
  Ints score_ends;  // [rows], extend only: ke, but ks where the row attends to all it sees without scores
  // the paged indexer: not in extend
  std::int64_t paged_batch = 0;  // rows of context_lens: batch, or rows if the requests extend differently
  std::int64_t next_n = 0;       // columns of context_lens
  Ints context_lens;             // [paged_batch, next_n]
  Ints paged_block_table;        // [paged_batch, max_pages], only if paged_batch is not batch
  Ints schedule;                 // [threads + 1, 2]

  /// Fills everything. The cache must have pages for prefix + extend tokens of every request. Throws
  /// InvalidArgument if it has not, or if the requests do not fit the mode. Keeps its memory between steps.
  void build(ForwardMode forward_mode, std::span<const BatchRequest> batch_requests, const KvCache& cache,
             std::int64_t index_topk, const Context& context);

  /// A view of one of the fields above.
  static TensorView view(const Ints& field) { return view(field, {static_cast<std::int64_t>(field.size())}); }
  static TensorView view(const Ints& field, std::initializer_list<std::int64_t> shape) {
    return TensorView::contiguous(const_cast<std::int32_t*>(field.data()), DType::i32, shape);
  }
  TensorView block_table_view() const { return view(block_table, {batch, max_pages}); }
  TensorView paged_block_table_view() const {
    return paged_batch == batch ? block_table_view() : view(paged_block_table, {paged_batch, max_pages});
  }
};

}  // namespace fathom
