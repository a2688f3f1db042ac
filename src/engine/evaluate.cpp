// Session::logits and Session::perplexity: what the model thinks of given tokens.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "engine/session_impl.hpp"
#include "fathom/core/error.hpp"
#include "fathom/engine/config.hpp"

namespace fathom {
namespace {

// Rows whose logits exist at the same time: 64 rows of the largest vocabulary are 33 MB.
constexpr std::int64_t kLogitRows = 64;

/// -log softmax(logits)[target]
double negative_log_likelihood(const float* logits, std::int64_t vocab, std::int32_t target) {
  const float most = *std::max_element(logits, logits + vocab);
  double sum = 0;
  for (std::int64_t v = 0; v < vocab; ++v) sum += std::exp(static_cast<double>(logits[v] - most));
  return std::log(sum) - static_cast<double>(logits[target] - most);
}

}  // namespace

std::vector<float> Session::logits(std::span<const std::int32_t> ids, std::int64_t last,
                                   const ProgressCallback& on_progress) {
  Impl& s = *impl_;
  s.check_ids("logits", ids);
  const auto total = static_cast<std::int64_t>(ids.size());
  if (last < 1 || last > total) {
    throw InvalidArgument("logits: 'last' must be from 1 to the " + std::to_string(total) +
                          " tokens of the prompt, got " + std::to_string(last));
  }
  const std::int64_t vocab = s.model.config().vocab_size;
  std::vector<float> result(static_cast<std::size_t>(last * vocab));
  const TensorView all = TensorView::contiguous(result.data(), DType::f32, {last, vocab});
  KvCache& cache = s.cache_for(total);
  const Impl::Sequence sequence(cache);
  s.prefill(sequence.id(), ids, on_progress, nullptr, [&](std::int64_t begin, const TensorView& hidden) {
    const std::int64_t end = begin + hidden.size(0);
    const std::int64_t first = std::max(begin, total - last);
    if (first < end)
      s.runner.logits(hidden.rows(first - begin, end - begin),
                      all.rows(first - (total - last), end - (total - last)));
  });
  return result;
}

Perplexity Session::perplexity(std::span<const std::int32_t> ids, std::int64_t window,
                               const ProgressCallback& on_progress) {
  Impl& s = *impl_;
  const ModelConfig& config = s.model.config();
  if (window < 2 || window > config.max_position_embeddings) {
    throw InvalidArgument("perplexity: 'window' must be from 2 to max_position_embeddings, " +
                          std::to_string(config.max_position_embeddings) + ", got " + std::to_string(window));
  }
  if (ids.size() < 2)
    throw InvalidArgument("perplexity: needs at least 2 tokens, got " + std::to_string(ids.size()));
  Perplexity result;
  double sum = 0;
  const auto total = static_cast<std::int64_t>(ids.size());
  for (std::int64_t start = 0; start + 1 < total; start += window) {
    const std::int64_t size = std::min(window, total - start);
    const auto part = ids.subspan(static_cast<std::size_t>(start), static_cast<std::size_t>(size));
    s.check_ids("perplexity", part);
    KvCache& cache = s.cache_for(size);
    const Impl::Sequence sequence(cache);
    double window_sum = 0;
    const auto progress = [&](std::int64_t done, std::int64_t) {
      if (on_progress) on_progress(start + done, total);
    };
    s.prefill(sequence.id(), part, progress, nullptr, [&](std::int64_t begin, const TensorView& hidden) {
      const std::int64_t rows =
          std::min(hidden.size(0), size - 1 - begin);  // the last one predicts nothing here
      for (std::int64_t row = 0; row < rows; row += kLogitRows) {
        const std::int64_t count = std::min(kLogitRows, rows - row);
        const TensorView logits = s.logits(count);
        s.runner.logits(hidden.rows(row, row + count), logits);
        for (std::int64_t i = 0; i < count; ++i) {
          const std::int32_t target = part[static_cast<std::size_t>(begin + row + i + 1)];
          window_sum +=
              negative_log_likelihood(logits.as<float>() + i * config.vocab_size, config.vocab_size, target);
        }
      }
    });
    result.nll_per_window.push_back(window_sum / static_cast<double>(size - 1));
    result.predicted += size - 1;
    sum += window_sum;
  }
  result.mean_nll = sum / static_cast<double>(result.predicted);
  result.perplexity = std::exp(result.mean_nll);
  return result;
}

Perplexity pooled(std::span<const Perplexity> parts) {
  Perplexity result;
  double sum = 0;
  for (const Perplexity& part : parts) {
    sum += part.mean_nll * static_cast<double>(part.predicted);
    result.predicted += part.predicted;
    result.nll_per_window.insert(result.nll_per_window.end(), part.nll_per_window.begin(),
                                 part.nll_per_window.end());
  }
  if (result.predicted == 0) throw InvalidArgument("perplexity: no token is predicted");
  result.mean_nll = sum / static_cast<double>(result.predicted);
  result.perplexity = std::exp(result.mean_nll);
  return result;
}

}  // namespace fathom
