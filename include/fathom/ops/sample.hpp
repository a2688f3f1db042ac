// Draws one token from every row of logits.
#pragma once
#include "fathom/core/context.hpp"
#include "fathom/core/problem.hpp"
#include "fathom/core/tensor.hpp"

namespace fathom {

/// How logits become a distribution.
struct SamplingParams {
  float temperature = 0;   // 0: greedy
  std::int64_t top_k = 0;  // keep the top_k most probable tokens; 0: all
  float top_p = 1;         // then keep the fewest most probable tokens that hold this share; in (0, 1]
};

struct SampleProblem {
  static constexpr std::string_view op = "sample";
  std::int64_t rows = 1;
  std::int64_t vocab = 129280;
  bool greedy = true;
  bool filtered = false;  // top_k or top_p cuts something

  template <class V>
  void fields(V& visit) {
    visit("rows", rows);
    visit("vocab", vocab);
    visit("greedy", greedy);
    visit("filtered", filtered);
  }
  bool operator==(const SampleProblem&) const = default;
};

struct SampleArgs {
  TensorView logits;  // [rows, vocab]
  SamplingParams params;
  TensorView coins;   // [rows]; not needed at temperature 0
  TensorView tokens;  // [rows], written
  TensorView shares;  // [rows], written if given
};

/// Draws tokens[r] from row r of the logits.
///
///   temperature 0:  the largest logit, ties to the lowest token
///   otherwise:      p = softmax(logits / temperature); the top_k most probable tokens are kept (ties to the
///                   lowest token) and p is renormalised; of these the fewest most probable ones whose sum
///                   reaches top_p are kept and p is renormalised; the token is the first one, in the order
///                   of token ids, at which the running sum of p exceeds the coin
///
///   logits  [rows, vocab]  f32
///   coins   [rows]         f32, uniform in [0, 1)
///   tokens  [rows]         i32
///   shares  [rows]         f32, softmax(logits)[token]: whatever the temperature, and before any cut
///
/// A NaN logit counts as -inf. Throws InvalidArgument if a shape or dtype differs, a parameter or a coin is
/// out of its range, or a row has no logit above -inf.
void sample(const SampleArgs& args, const Context& context);

}  // namespace fathom
