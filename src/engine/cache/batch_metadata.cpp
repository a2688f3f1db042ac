#include "engine/cache/batch_metadata.hpp"

#include <algorithm>

#include "fathom/core/error.hpp"

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

}  // namespace

void BatchMetadata::build(ForwardMode forward_mode, std::span<const BatchRequest> batch_requests,
                          const KvCache& cache, std::int64_t index_topk, const Context& context) {
  check_batch(forward_mode, batch_requests, cache);
  mode = forward_mode;
  batch = static_cast<std::int64_t>(batch_requests.size());
  rows = keys = max_seqlen_k = 0;
  bool uniform = true;
  lengths_.resize(2 * batch_requests.size());
  for (std::size_t b = 0; b < batch_requests.size(); ++b) {
    const BatchRequest& request = batch_requests[b];
    const std::int64_t length = request.prefix + request.extend;
    lengths_[b] = static_cast<std::int32_t>(request.prefix);
    lengths_[batch_requests.size() + b] = static_cast<std::int32_t>(request.extend);
    rows += request.extend;
    keys += length;
    max_seqlen_k = std::max(max_seqlen_k, length);
    uniform = uniform && request.extend == batch_requests[0].extend;
  }
  sparse = max_seqlen_k > index_topk;
  max_pages = (max_seqlen_k + kPageTokens - 1) / kPageTokens;
  pages_.resize(static_cast<std::size_t>(batch * max_pages));
  for (std::size_t b = 0; b < batch_requests.size(); ++b) {
    const std::span<const std::int32_t> pages = cache.pages(batch_requests[b].sequence);
    const auto width = static_cast<std::size_t>(max_pages);
    std::ranges::copy(pages.first(std::min(pages.size(), width)), pages_.data() + b * width);
  }

  const bool packed = mode == ForwardMode::extend || (mode == ForwardMode::draft_extend && !uniform);
  const bool paged = mode != ForwardMode::extend && batch > 0;
  const DsaMetadataProblem problem{.mode = mode,
                                   .batch = batch,
                                   .rows = rows,
                                   .max_pages = max_pages,
                                   .page_tokens = kPageTokens,
                                   .index_topk = index_topk,
                                   .workers = paged ? context.threads() : 0,
                                   .packed = packed};
  paged_batch = paged ? problem.paged_batch() : 0;
  next_n = paged ? problem.next_n() : 0;
  const auto ints = [](std::vector<std::int32_t>& of, std::size_t begin,
                       std::initializer_list<std::int64_t> shape) {
    return TensorView::contiguous(of.data() + begin, DType::i32, shape);
  };
  outputs_.resize(static_cast<std::size_t>(dsa_metadata_size(problem)));
  static_cast<DsaMetadata&>(*this) =
      dsa_metadata_in(problem, ints(outputs_, 0, {static_cast<std::int64_t>(outputs_.size())}));
  dsa_metadata({.mode = mode,
                .prefix_lens = ints(lengths_, 0, {batch}),
                .extend_lens = packed ? ints(lengths_, batch_requests.size(), {batch}) : TensorView{},
                .page_table = ints(pages_, 0, {batch, max_pages}),
                .index_topk = index_topk,
                .page_tokens = kPageTokens,
                .out = *this},
               context);
}

}  // namespace fathom
