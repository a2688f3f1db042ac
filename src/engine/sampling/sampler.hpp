// Sampler: turns logits into tokens. Its coins depend on the seed and the position alone.
#pragma once
#include <span>
#include <vector>

#include "fathom/core/context.hpp"
#include "fathom/core/tensor.hpp"
#include "fathom/engine/session.hpp"
#include "fathom/ops/sample.hpp"

namespace fathom {

/// What verification makes of a chain of drafts.
struct Verdicts {
  std::int64_t accepted = 0;
  std::int32_t next_token = 0;
};

class Sampler {
 public:
  /// Throws InvalidArgument if an option is out of range.
  Sampler(const SamplingOptions& options, const Context& context);

  /// The token at `position`, from logits [1, vocab].
  std::int32_t next(const TensorView& logits, std::int64_t position);
  /// logits [drafts + 1, vocab]: row i answers the context before draft i, which would stand at position + i.
  Verdicts verify(const TensorView& logits, std::span<const std::int32_t> drafts, std::int64_t position);

  /// Uniform in [0, 1): stream 0 draws tokens, stream 1 accepts drafts. Public for tests.
  static float coin(std::uint64_t seed, std::int64_t position, int stream);

 private:
  SamplingParams params_;
  std::uint64_t seed_;
  const Context& context_;
  std::vector<float> coins_;
};

/// The most likely token of logits [1, vocab]: what drafting uses. `share` gets its probability, if given.
std::int32_t argmax(const TensorView& logits, const Context& context, float* share = nullptr);

}  // namespace fathom
