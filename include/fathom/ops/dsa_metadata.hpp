// What every layer of one step of sparse attention needs to know about the batch.
#pragma once
#include <string_view>

#include "fathom/core/context.hpp"
#include "fathom/core/problem.hpp"
#include "fathom/core/tensor.hpp"

namespace fathom {

enum class ForwardMode : std::uint8_t {
  extend,         ///< prefill: any number of new tokens of every request
  decode,         ///< one new token of every request
  target_verify,  ///< the last token and its drafts, as many of every request, scored in one pass
  draft_extend,   ///< the draft layer over tokens just committed
  idle,           ///< no request
};
/// "extend", "decode", "target_verify", "draft_extend", "idle"
std::string_view to_string(ForwardMode mode);
bool parse_enum(std::string_view text, ForwardMode& mode);

struct DsaMetadataProblem {
  static constexpr std::string_view op = "dsa_metadata";
  ForwardMode mode = ForwardMode::decode;
  std::int64_t batch = 1;
  std::int64_t rows = 1;
  std::int64_t max_pages = 1;
  std::int64_t page_tokens = 64;
  std::int64_t index_topk = 2048;
  std::int64_t workers = 0;  // of the schedule; 0: none
  bool packed = false;       // extend_lens is given
  bool tables = true;        // block tables are written

  template <class V>
  void fields(V& visit) {
    visit("mode", mode);
    visit("batch", batch);
    visit("rows", rows);
    visit("max_pages", max_pages);
    visit("page_tokens", page_tokens);
    visit("index_topk", index_topk);
    visit("workers", workers);
    visit("packed", packed);
    visit("tables", tables);
  }
  bool operator==(const DsaMetadataProblem&) const = default;

  /// The paged scores' view of the rows: requests of next_n rows, or, packed, every row a request of its own.
  std::int64_t next_n() const { return packed || batch == 0 ? 1 : rows / batch; }
  std::int64_t paged_batch() const { return packed && batch > 0 ? rows : batch; }
};

/// i32, contiguous. A row sees positions 0 .. its own of its request, so its length is its position + 1.
struct DsaMetadata {
  // per request
  TensorView cache_seqlens;  // [batch]; the new tokens included
  TensorView cu_seqlens_q;   // extend: [batch + 1], sums of the new tokens; else [rows + 1]: 0, 1, 2, ...
  TensorView cu_seqlens_k;   // [batch + 1], sums of cache_seqlens
  TensorView block_table;    // [batch, max_pages], optional: the pages in use, then -1
  // per row
  TensorView positions;         // [rows]
  TensorView slots;             // [rows], the cache slot of the row's own entry
  TensorView requests;          // [rows], the row's request
  TensorView seqlens_expanded;  // [rows], the length each row sees
  TensorView topk_lens;         // [rows], the same, at most index_topk
  TensorView cu_topk_lens;      // [rows + 1], sums of topk_lens
  TensorView ks, ke;  // [rows], extend only: the row's window of the keys of all requests, laid end to end
  TensorView score_ends;       // [rows], extend only: ke, but ks where the row sees at most index_topk
  TensorView row_block_table;  // [rows, max_pages], optional, packed draft_extend only: that of its request
  TensorView schedule;         // [workers + 1, 2], optional, not in extend: see paged_mqa_schedule
};

struct DsaMetadataArgs {
  ForwardMode mode = ForwardMode::decode;
  TensorView prefix_lens;  // [batch]
  TensorView extend_lens;  // [batch], in extend; optional in draft_extend
  TensorView page_table;   // [sequences, max_pages]
  TensorView request_ids;  // [batch], optional: 0, 1, 2, ...
  std::int64_t index_topk = 2048;
  std::int64_t page_tokens = 64;
  DsaMetadata out;  // written
};

/// Request b brings new tokens at positions prefix_lens[b], prefix_lens[b] + 1, ...; its pages are row
/// request_ids[b] of the page table.
///
///   prefix_lens  [batch]                 i32; negative: the request is padding
///   extend_lens  [batch]                 i32, new tokens; rows of the requests follow one another, rows
///                                        behind the last are padding. Left out, request b has rows
///                                        [b * next_n, (b + 1) * next_n) with next_n = rows / batch
///                                        (1 in decode)
///   page_table   [sequences, max_pages]  i32, the page of every page_tokens positions; rows may be strided
///   request_ids  [batch]                 i32
///
/// A row of padding has length 0, slot -1, position 0 and an empty window; its request is its own, or 0
/// behind the last. In mode idle batch is 0 and all rows are padding. Every element of every output is
/// written, none depends on what was there: buffers of fixed capacity may be updated in place, a step after
/// the other. On CUDA this is one launch that reads the lengths on the device, so a graph that was recorded
/// with other lengths gives the metadata of those it is replayed with.
///
/// Throws InvalidArgument if a shape or dtype differs or, on the host, new tokens do not fit `rows` or the
/// page table, a request is none of the table's, a new token has no page, or a slot or a sum is 2^31 or more;
/// nothing is written then. On a device, where none of this is looked at, rows that do not fit are dropped,
/// and a token without a page, or with one whose slots are too large, has slot -1.
void dsa_metadata(const DsaMetadataArgs& args, const Context& context);

/// Elements of one i32 buffer that holds all outputs of a problem, and the outputs in it.
std::int64_t dsa_metadata_size(const DsaMetadataProblem& problem);
DsaMetadata dsa_metadata_in(const DsaMetadataProblem& problem, const TensorView& buffer);

}  // namespace fathom
