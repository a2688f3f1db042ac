// dsa_metadata on the host: request by request, row by row.
#include <algorithm>

#include "fathom/ops/paged_mqa_schedule.hpp"
#include "ops/cache_layout.hpp"
#include "ops/dsa_metadata/dsa_metadata_impl.hpp"

namespace fathom {
namespace {

class Writer {
 public:
  Writer(const DsaMetadataProblem& problem, const DsaMetadataArgs& args)
      : p_(problem), args_(args), out_(args.out), extend_(problem.mode == ForwardMode::extend) {}

  void run() {
    put(out_.cu_seqlens_k, 0, 0);
    put(out_.cu_topk_lens, 0, 0);
    for (std::int64_t b = 0; b < p_.batch; ++b) request(b);
    while (row_ < p_.rows) padding(0);
    if (extend_) put(out_.cu_seqlens_q, 0, 0);
    for (std::int64_t row = 0; !extend_ && row <= p_.rows; ++row) put(out_.cu_seqlens_q, row, row);
  }

 private:
  static void put(const TensorView& to, std::int64_t i, std::int64_t value) {
    to.as<std::int32_t>()[i] = static_cast<std::int32_t>(value);
  }

  void request(std::int64_t b) {
    const std::int64_t prefix = integer_at(args_.prefix_lens, b);
    const std::int64_t share = p_.packed ? integer_at(args_.extend_lens, b) : p_.next_n();
    const std::int64_t length = prefix < 0 ? 0 : prefix + share;
    const std::int64_t sequence = args_.request_ids.given() ? integer_at(args_.request_ids, b) : b;
    if (out_.block_table.given()) pages(out_.block_table, b, sequence, length);
    if (prefix < 0) {
      for (std::int64_t i = 0; !p_.packed && i < share; ++i) padding(b);
    } else {
      for (std::int64_t i = 0; i < share; ++i) token(b, sequence, prefix + i, length);
    }
    keys_ += length;
    put(out_.cache_seqlens, b, length);
    put(out_.cu_seqlens_k, b + 1, keys_);
    if (extend_) put(out_.cu_seqlens_q, b + 1, row_);
  }

  void token(std::int64_t b, std::int64_t sequence, std::int64_t position, std::int64_t length) {
    const std::int64_t page = int_at(args_.page_table, sequence, position / p_.page_tokens);
    put(out_.positions, row_, position);
    put(out_.slots, row_, page * p_.page_tokens + position % p_.page_tokens);
    if (out_.row_block_table.given()) pages(out_.row_block_table, row_, sequence, length);
    seen(b, position + 1);
  }

  void padding(std::int64_t b) {
    put(out_.positions, row_, 0);
    put(out_.slots, row_, -1);
    if (out_.row_block_table.given()) pages(out_.row_block_table, row_, 0, 0);
    seen(b, 0);
  }

  // What follows from the length that a row sees; ends the row.
  void seen(std::int64_t b, std::int64_t length) {
    const std::int64_t chosen = std::min(length, p_.index_topk);
    const std::int64_t start = length > 0 ? keys_ : 0;
    chosen_ += chosen;
    put(out_.requests, row_, b);
    put(out_.seqlens_expanded, row_, length);
    put(out_.topk_lens, row_, chosen);
    if (extend_) {
      put(out_.ks, row_, start);
      put(out_.ke, row_, start + length);
      put(out_.score_ends, row_, length > p_.index_topk ? start + length : start);
    }
    put(out_.cu_topk_lens, ++row_, chosen_);
  }

  void pages(const TensorView& table, std::int64_t row, std::int64_t sequence, std::int64_t length) const {
    const std::int64_t used = (length + p_.page_tokens - 1) / p_.page_tokens;
    for (std::int64_t i = 0; i < p_.max_pages; ++i)
      put(table, row * p_.max_pages + i, i < used ? std::max(int_at(args_.page_table, sequence, i), -1) : -1);
  }

  const DsaMetadataProblem& p_;
  const DsaMetadataArgs& args_;
  const DsaMetadata& out_;
  bool extend_;
  std::int64_t row_ = 0;
  std::int64_t keys_ = 0;    // of the requests before
  std::int64_t chosen_ = 0;  // of the rows before
};

}  // namespace

void dsa_metadata_ref(const DsaMetadataProblem& problem, const DsaMetadataArgs& args,
                      const Context& context) {
  Writer(problem, args).run();
  if (!args.out.schedule.given()) return;
  TensorView lens = args.out.seqlens_expanded;
  lens = TensorView::contiguous(lens.data, lens.dtype, {problem.paged_batch(), problem.next_n()});
  paged_mqa_schedule({.context_lens = lens, .schedule = args.out.schedule}, context);
}

}  // namespace fathom
