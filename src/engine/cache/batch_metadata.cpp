#include "engine/cache/batch_metadata.hpp"

#include <algorithm>

#include "fathom/core/error.hpp"
#include "fathom/ops/paged_mqa_schedule.hpp"

namespace fathom {
namespace {
[[noreturn]] void bad_batch(ForwardMode mode, const std::string& what) {
  throw InvalidArgument("batch: mode " + std::string(to_string(mode)) + " " + what);
}

void check_batch(ForwardMode mode, std::span<const BatchRequest> requests, const KvCache& cache) {
  if (mode == ForwardMode::idle && !requests.empty()) bad_batch(mode, "takes no request");
  for (const BatchRequest& request : requests) {
    if (request.extend < 1 || request.prefix < 0) {
      bad_batch(mode, "needs a prefix of at least 0 and at least 1 new token, got " +
                          std::to_string(request.prefix) + " and " + std::to_string(request.extend));
    }
    if (mode == ForwardMode::decode && request.extend != 1)
      bad_batch(mode, "takes 1 new token of every request, got " + std::to_string(request.extend));
    if (mode == ForwardMode::target_verify && request.extend != requests[0].extend)
      bad_batch(mode, "takes as many tokens of every request, got " + std::to_string(requests[0].extend) +
                          " and " + std::to_string(request.extend));
    const auto room = static_cast<std::int64_t>(cache.pages(request.sequence).size()) * kPageTokens;
    if (room < request.prefix + request.extend) {
      bad_batch(mode, "needs pages for " + std::to_string(request.prefix + request.extend) +
                          " tokens of sequence " + std::to_string(request.sequence) + ", it has pages for " +
                          std::to_string(room));
    }
  }
}

void append_table(BatchMetadata::Ints& table, std::span<const std::int32_t> pages, std::int64_t width) {
  const auto used = std::min(static_cast<std::int64_t>(pages.size()), width);
  table.insert(table.end(), pages.begin(), pages.begin() + used);
  table.insert(table.end(), static_cast<std::size_t>(width - used), -1);
}
}  // namespace

std::string_view to_string(ForwardMode mode) {
  switch (mode) {
    case ForwardMode::extend:
      return "EXTEND";
    case ForwardMode::decode:
      return "DECODE";
    case ForwardMode::target_verify:
      return "TARGET_VERIFY";
    case ForwardMode::draft_extend:
      return "DRAFT_EXTEND";
    case ForwardMode::idle:
      return "IDLE";
  }
  __builtin_unreachable();
}

void BatchMetadata::build(ForwardMode forward_mode, std::span<const BatchRequest> batch_requests,
                          const KvCache& cache, std::int64_t index_topk, const Context& context) {
  check_batch(forward_mode, batch_requests, cache);
  mode = forward_mode;
  batch = static_cast<std::int64_t>(batch_requests.size());
  rows = max_seqlen_q = max_seqlen_k = 0;
  for (Ints* field :
       {&extend_lens, &cache_seqlens, &block_table, &positions, &slots, &requests, &seqlens_expanded,
        &topk_lens, &ks, &ke, &score_ends, &context_lens, &paged_block_table, &schedule})
    field->clear();
  for (Ints* sums : {&cu_seqlens_q, &cu_seqlens_k, &cu_topk_lens}) sums->assign(1, 0);

  bool uniform = true;
  for (const BatchRequest& request : batch_requests) {
    const auto index = static_cast<std::int32_t>(extend_lens.size());
    const auto extend = static_cast<std::int32_t>(request.extend);
    const auto prefix = static_cast<std::int32_t>(request.prefix);
    const std::span<const std::int32_t> pages = cache.pages(request.sequence);
    for (std::int32_t position = prefix; position < prefix + extend; ++position) {
      const std::int32_t length = position + 1;
      positions.push_back(position);
      slots.push_back(pages[static_cast<std::size_t>(position / kPageTokens)] *
                          static_cast<std::int32_t>(kPageTokens) +
                      position % static_cast<std::int32_t>(kPageTokens));
      requests.push_back(index);
      seqlens_expanded.push_back(length);
      topk_lens.push_back(std::min(length, static_cast<std::int32_t>(index_topk)));
      cu_topk_lens.push_back(cu_topk_lens.back() + topk_lens.back());
      if (mode == ForwardMode::extend) {
        ks.push_back(cu_seqlens_k.back());
        ke.push_back(cu_seqlens_k.back() + length);
        score_ends.push_back(length > index_topk ? ke.back() : ks.back());
      }
    }
    extend_lens.push_back(extend);
    cache_seqlens.push_back(prefix + extend);
    cu_seqlens_q.push_back(cu_seqlens_q.back() + extend);
    cu_seqlens_k.push_back(cu_seqlens_k.back() + prefix + extend);
    max_seqlen_q = std::max<std::int64_t>(max_seqlen_q, extend);
    max_seqlen_k = std::max<std::int64_t>(max_seqlen_k, prefix + extend);
    uniform = uniform && request.extend == batch_requests[0].extend;
  }
  rows = static_cast<std::int64_t>(positions.size());
  sparse = max_seqlen_k > index_topk;
  max_pages = (max_seqlen_k + kPageTokens - 1) / kPageTokens;
  for (const BatchRequest& request : batch_requests)
    append_table(block_table, cache.pages(request.sequence), max_pages);
  if (mode == ForwardMode::target_verify || mode == ForwardMode::draft_extend) {
    // Attention sees every row of these modes as a request of its own.
    max_seqlen_q = std::min<std::int64_t>(max_seqlen_q, 1);
    cu_seqlens_q.resize(static_cast<std::size_t>(rows) + 1);
    for (std::int64_t row = 0; row <= rows; ++row)
      cu_seqlens_q[static_cast<std::size_t>(row)] = static_cast<std::int32_t>(row);
  }

  paged_batch = next_n = 0;
  if (mode == ForwardMode::extend || batch == 0) return;
  next_n = uniform ? batch_requests[0].extend : 1;
  paged_batch = rows / next_n;
  context_lens = seqlens_expanded;
  if (!uniform) {
    for (const std::int32_t request : requests)
      append_table(paged_block_table, cache.pages(batch_requests[static_cast<std::size_t>(request)].sequence),
                   max_pages);
  }
  schedule.resize(2 * (static_cast<std::size_t>(context.threads()) + 1));
  paged_mqa_schedule({.context_lens = view(context_lens, {paged_batch, next_n}),
                      .schedule = view(schedule, {context.threads() + 1, 2})},
                     context);
}

}  // namespace fathom
