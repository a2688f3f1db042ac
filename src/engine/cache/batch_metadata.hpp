// What every layer of one step needs to know about the batch: dsa_metadata of the requests' shares, and what
// the host decides with.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "fathom/core/context.hpp"
#include "fathom/core/tensor.hpp"
#include "fathom/engine/cache.hpp"
#include "fathom/ops/dsa_metadata.hpp"

namespace fathom {

/// The share of one request in a step: `extend` new tokens behind `prefix` tokens of its cache.
struct BatchRequest {
  SequenceId sequence = 0;
  std::int64_t prefix = 0;
  std::int64_t extend = 1;
};

/// Built once per step, read by every layer. Rows are the new tokens of all requests, one request after the
/// other.
struct BatchMetadata : DsaMetadata {
  BatchMetadata() = default;
  BatchMetadata(BatchMetadata&&) = default;  // a copy's views would show the memory of this one
  BatchMetadata& operator=(BatchMetadata&&) = default;

  ForwardMode mode = ForwardMode::idle;
  std::int64_t batch = 0;
  std::int64_t rows = 0;
  std::int64_t keys = 0;  // of all requests together
  std::int64_t max_seqlen_k = 0;
  std::int64_t max_pages = 0;
  bool sparse = false;  // some row sees more than index_topk tokens: the indexer must score
  // the paged indexer: not in extend
  std::int64_t paged_batch = 0;  // batch, or rows if the requests extend differently
  std::int64_t next_n = 0;       // rows of a request there

  /// Fills everything. The cache must have pages for prefix + extend tokens of every request. Throws
  /// InvalidArgument if it has not, or if the requests do not fit the mode. Keeps its memory between steps.
  void build(ForwardMode forward_mode, std::span<const BatchRequest> batch_requests, const KvCache& cache,
             std::int64_t index_topk, const Context& context);

  TensorView context_lens() const {
    return TensorView::contiguous(seqlens_expanded.data, DType::i32, {paged_batch, next_n});
  }
  const TensorView& paged_block_table() const {
    return row_block_table.given() ? row_block_table : block_table;
  }

 private:
  std::vector<std::int32_t> lengths_;  // [2, batch], prefix and extend
  std::vector<std::int32_t> pages_;    // [batch, max_pages]
  std::vector<std::int32_t> outputs_;
};

}  // namespace fathom
