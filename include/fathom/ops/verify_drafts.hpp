// Accepts draft tokens such that the output follows the target model exactly.
#pragma once
#include "fathom/core/context.hpp"
#include "fathom/core/problem.hpp"
#include "fathom/core/tensor.hpp"
#include "fathom/ops/sample.hpp"

namespace fathom {

struct VerifyDraftsProblem {
  static constexpr std::string_view op = "verify_drafts";
  std::int64_t batch = 1;
  std::int64_t drafts = 3;
  std::int64_t vocab = 129280;
  bool greedy = true;
  bool filtered = false;

  template <class V>
  void fields(V& visit) {
    visit("batch", batch);
    visit("drafts", drafts);
    visit("vocab", vocab);
    visit("greedy", greedy);
    visit("filtered", filtered);
  }
  bool operator==(const VerifyDraftsProblem&) const = default;
};

struct VerifyDraftsArgs {
  TensorView logits;  // [batch, drafts+1, vocab]
  TensorView drafts;  // [batch, drafts]
  SamplingParams params;
  TensorView coins;       // [batch, drafts+1]; not needed at temperature 0
  TensorView accepted;    // [batch], written
  TensorView next_token;  // [batch], written
};

/// Follows every chain of drafts as long as the target model would have said the same.
///
///   logits[b, i] is the target's answer to the context before draft i; p_i the distribution sample() makes
///   of it. temperature 0:  draft i is accepted while it is the largest logit of row i; next_token is the
///   largest
///                   logit of the first row that was not accepted (of row `drafts` if all were)
///   otherwise:      draft i is accepted if coins[b, i] < p_i[draft i]. At the first draft that is refused,
///                   next_token is drawn from p_i without that draft, renormalised; if all are accepted, from
///                   p_drafts. This draw uses coins[b, drafts].
///
/// The tokens (accepted drafts, then next_token) are distributed exactly as if the target alone had been
/// sampled.
///
///   logits      [batch, drafts+1, vocab]  f32
///   drafts      [batch, drafts]           i32; -1: no draft here, which is never accepted (a shorter chain)
///   coins       [batch, drafts+1]         f32, uniform in [0, 1)
///   accepted    [batch]                   i32: how many drafts
///   next_token  [batch]                   i32
///
/// Throws InvalidArgument as sample() does, and if a draft is not in [-1, vocab).
void verify_drafts(const VerifyDraftsArgs& args, const Context& context);

}  // namespace fathom
