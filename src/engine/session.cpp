// What a session holds: its cache and memory, one step, prefill.
#include "fathom/engine/session.hpp"

#include <algorithm>
#include <cstring>
#include <string>

#include "engine/session_impl.hpp"
#include "fathom/core/error.hpp"
#include "fathom/engine/config.hpp"

namespace fathom {
namespace {
bool cancelled(const std::atomic<bool>* cancel) { return cancel && cancel->load(std::memory_order_relaxed); }
}  // namespace

Session::Impl::Impl(const Model& the_model, const Context& the_context, const SessionOptions& the_options)
    : model(the_model), context(the_context), options(the_options), runner(the_model, the_context) {
  if (options.prefill_chunk < 0) {
    throw InvalidArgument("session: 'prefill_chunk' must be at least 0, got " +
                          std::to_string(options.prefill_chunk));
  }
}

void Session::Impl::check_ids(std::string_view what, std::span<const std::int32_t> ids) const {
  const auto fail = [&](const std::string& text) { throw InvalidArgument(std::string(what) + ": " + text); };
  const ModelConfig& config = model.config();
  if (ids.empty()) fail("the prompt is empty");
  if (static_cast<std::int64_t>(ids.size()) > config.max_position_embeddings) {
    fail("the prompt has " + std::to_string(ids.size()) + " tokens, the model's max_position_embeddings is " +
         std::to_string(config.max_position_embeddings));
  }
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= config.vocab_size) {
      fail("token " + std::to_string(ids[i]) + " at position " + std::to_string(i) +
           " is not in the vocabulary, 0 to " + std::to_string(config.vocab_size - 1));
    }
  }
}

KvCache& Session::Impl::cache_for(std::int64_t tokens) {
  const std::int64_t pages = (tokens + kPageTokens - 1) / kPageTokens;
  if (!cache || cache->free_pages() < pages) {
    cache.reset();
    cache = std::make_unique<KvCache>(model.cache_shape(), pages);
  }
  return *cache;
}

TensorView Session::Impl::states(std::int64_t begin, std::int64_t end) const {
  const std::int64_t hidden = model.config().hidden_size;
  const auto rows = state_memory.size() / (hidden * static_cast<std::int64_t>(sizeof(float)));
  return state_memory.view(DType::f32, {rows, hidden}).rows(begin, end);
}

TensorView Session::Impl::logits(std::int64_t rows) {
  const std::int64_t vocab = model.config().vocab_size;
  const std::int64_t bytes = rows * vocab * static_cast<std::int64_t>(sizeof(float));
  if (logit_memory.size() < bytes) logit_memory = Buffer(bytes);
  return logit_memory.view(DType::f32, {rows, vocab});
}

TensorView Session::Impl::step(ForwardMode mode, SequenceId sequence, std::int64_t prefix,
                               std::span<const std::int32_t> tokens) {
  const auto count = static_cast<std::int64_t>(tokens.size());
  const std::int64_t row = model.config().hidden_size * static_cast<std::int64_t>(sizeof(float));
  if (state_memory.size() < (1 + count) * row) {
    Buffer larger((1 + std::max(count, kMaxDraftTokens + 1)) * row);
    if (state_memory.size() > 0)
      std::memcpy(larger.data(), state_memory.data(), static_cast<std::size_t>(row));
    state_memory = std::move(larger);
  }
  cache->reserve(sequence, prefix + count);
  const BatchRequest request{.sequence = sequence, .prefix = prefix, .extend = count};
  batch.build(mode, {&request, 1}, *cache, model.config().index_topk, context);
  const TensorView hidden = states(1, 1 + count);
  runner.forward(batch, tokens, *cache, hidden);
  return hidden;
}

bool Session::Impl::prefill(SequenceId sequence, std::span<const std::int32_t> ids,
                            const ProgressCallback& on_progress, const std::atomic<bool>* cancel,
                            const std::function<void(std::int64_t, const TensorView&)>& consume) {
  const auto total = static_cast<std::int64_t>(ids.size());
  const std::int64_t chunk = options.prefill_chunk > 0 ? options.prefill_chunk : total;
  for (std::int64_t begin = 0; begin < total; begin += chunk) {
    if (cancelled(cancel)) return false;
    const std::int64_t end = std::min(total, begin + chunk);
    const TensorView hidden =
        step(ForwardMode::extend, sequence, begin,
             ids.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin)));
    cache->set_length(sequence, end);
    consume(begin, hidden);
    if (on_progress) on_progress(end, total);
  }
  return true;
}

Session::Session(const Model& model, const Context& context, const SessionOptions& options)
    : impl_(std::make_unique<Impl>(model, context, options)) {}
Session::~Session() = default;
Session::Session(Session&&) noexcept = default;
Session& Session::operator=(Session&&) noexcept = default;

MemoryUse Session::memory() const {
  return {
      .weights_mapped = impl_->model.mapped_bytes(),
      .weights_derived = impl_->model.derived_bytes(),
      .caches = impl_->cache ? impl_->cache->bytes() : 0,
      .workspace = impl_->runner.workspace_bytes() + impl_->state_memory.size() + impl_->logit_memory.size()};
}

}  // namespace fathom
