#include "engine/sampling/sampler.hpp"

#include <string>

#include "fathom/core/error.hpp"
#include "fathom/ops/verify_drafts.hpp"

namespace fathom {
namespace {

// splitmix64: every output bit depends on every input bit.
std::uint64_t mix(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

TensorView ints(std::span<std::int32_t> values, std::initializer_list<std::int64_t> shape) {
  return TensorView::contiguous(values.data(), DType::i32, shape);
}

void require(bool condition, const char* option, const char* expected, double got) {
  if (condition) return;
  throw InvalidArgument(std::string("sampling: '") + option + "' must be " + expected + ", got " +
                        std::to_string(got));
}

}  // namespace

Sampler::Sampler(const SamplingOptions& options, const Context& context)
    : params_{.temperature = options.temperature, .top_k = options.top_k, .top_p = options.top_p},
      seed_(options.seed),
      context_(context) {
  // Written so that NaN fails.
  require(options.temperature >= 0 && options.temperature <= 1e6f, "temperature", "from 0 to 1e6",
          static_cast<double>(options.temperature));
  require(options.top_p > 0 && options.top_p <= 1, "top_p", "above 0 and at most 1",
          static_cast<double>(options.top_p));
  require(options.top_k >= 0, "top_k", "at least 0", static_cast<double>(options.top_k));
}

float Sampler::coin(std::uint64_t seed, std::int64_t position, int stream) {
  const std::uint64_t bits =
      mix(mix(seed) ^ mix(2 * static_cast<std::uint64_t>(position) + static_cast<std::uint64_t>(stream)));
  return static_cast<float>(bits >> 40) * 0x1p-24f;
}

std::int32_t Sampler::next(const TensorView& logits, std::int64_t position) {
  float drawn = coin(seed_, position, 0);
  std::int32_t token = 0;
  sample({.logits = logits,
          .params = params_,
          .coins = TensorView::contiguous(&drawn, DType::f32, {1}),
          .tokens = ints({&token, 1}, {1})},
         context_);
  return token;
}

Verdicts Sampler::verify(const TensorView& logits, std::span<const std::int32_t> drafts,
                         std::int64_t position) {
  const auto count = static_cast<std::int64_t>(drafts.size());
  coins_.resize(drafts.size() + 1);
  for (std::int64_t i = 0; i < count; ++i) coins_[static_cast<std::size_t>(i)] = coin(seed_, position + i, 1);
  // One draw a step, wherever it lands; the next step's position is larger, so no coin is used twice.
  coins_.back() = coin(seed_, position, 0);
  TensorView chain = logits;
  chain.rank = 3;
  chain.shape = {1, logits.size(0), logits.size(1)};
  chain.stride = {logits.size(0) * logits.step(0), logits.step(0), 1};
  std::int32_t accepted = 0;
  Verdicts result;
  verify_drafts(
      {.logits = chain,
       .drafts = TensorView::contiguous(const_cast<std::int32_t*>(drafts.data()), DType::i32, {1, count}),
       .params = params_,
       .coins = TensorView::contiguous(coins_.data(), DType::f32, {1, count + 1}),
       .accepted = ints({&accepted, 1}, {1}),
       .next_token = ints({&result.next_token, 1}, {1})},
      context_);
  result.accepted = accepted;
  return result;
}

std::int32_t argmax(const TensorView& logits, const Context& context, float* share) {
  std::int32_t token = 0;
  SampleArgs args{.logits = logits, .tokens = ints({&token, 1}, {1})};
  if (share != nullptr) args.shares = TensorView::contiguous(share, DType::f32, {1});
  sample(args, context);
  return token;
}

}  // namespace fathom
