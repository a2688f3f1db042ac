// The fast form of what ops/sampling.hpp states plainly: the largest logit, and a distribution to draw from.
#pragma once
#include <cstdint>
#include <utility>
#include <vector>

#include "fathom/ops/sample.hpp"

namespace fathom::cpu {

/// The largest logit, ties to the lowest token; -1 if none is above -inf.
std::int64_t largest_logit(const float* logits, std::int64_t vocab);

inline constexpr std::int64_t kWeightBlock = 64;  // weights whose sum and largest are kept

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
  using Entry = std::pair<std::int32_t, float>;  // token, weight

  void cut(const SamplingParams& params);
  float least_weight(const SamplingParams& params, std::int64_t top_k);
  void total_of_kept();

  std::int64_t vocab_ = 0;
  double total_ = 0;
  std::vector<float> weights_;      // by token, not normalised, largest 1
  std::vector<float> block_sums_;   // of kWeightBlock weights each
  std::vector<float> block_bests_;  // the largest of each block
  bool filtered_ = false;           // if so, only what is kept counts:
  std::vector<Entry> kept_;         // ascending tokens
  std::vector<float> scratch_;
};

}  // namespace fathom::cpu
