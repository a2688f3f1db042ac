// The fast form of what ops/sampling.hpp states plainly: the largest logit, and a distribution to draw from.
#pragma once
#include <cstdint>
#include <utility>
#include <vector>

#include "fathom/ops/sample.hpp"

namespace fathom::cpu {

/// The largest logit, ties to the lowest token; -1 if none is above -inf.
std::int64_t largest_logit(const float* logits, std::int64_t vocab);

/// The distribution of one row of logits. Keeps its memory from row to row.
class TokenDistribution {
 public:
  /// False if no logit is above -inf.
  bool load(const float* logits, std::int64_t vocab, const SamplingParams& params);
  /// The token's probability.
  double share(std::int64_t token) const;
  /// Takes a token out; its share goes to the others.
  void remove(std::int64_t token);
  /// The first token at which the running sum exceeds coin times the whole sum.
  std::int64_t draw(float coin) const;

 private:
  void cut(const SamplingParams& params);

  // Either every token has a weight (kept_ is empty), or the few tokens that top_k and top_p left are listed.
  std::vector<float> weights_;                        // by token, not normalised, largest 1
  std::vector<double> block_sums_;                    // of kBlock weights each
  std::vector<std::pair<std::int32_t, float>> kept_;  // (token, weight), ascending tokens
  std::vector<std::pair<std::int32_t, float>> ranked_;
  std::int64_t vocab_ = 0;
  bool filtered_ = false;
  double total_ = 0;
};

}  // namespace fathom::cpu
