// The oracle of verify_drafts: one distribution after the other, everything in double.
#include "ops/elements.hpp"
#include "ops/sampling.hpp"
#include "ops/verify_drafts/verify_drafts_impl.hpp"

namespace fathom {

void verify_drafts_ref(const VerifyDraftsProblem& problem, const VerifyDraftsArgs& args, const Context&) {
  const Expect expect{VerifyDraftsProblem::op};
  for (std::int64_t b = 0; b < problem.batch; ++b) {
    std::int64_t accepted = 0;
    std::int64_t next = -1;
    while (next < 0) {
      const std::int64_t i = accepted;
      const float* logits = args.logits.as<float>() + b * args.logits.step(0) + i * args.logits.step(1);
      const std::int64_t row = b * (problem.drafts + 1) + i;
      const std::int64_t draft =
          i < problem.drafts ? args.drafts.as<std::int32_t>()[b * args.drafts.step(0) + i] : -1;
      if (problem.greedy) {
        const std::int64_t best = argmax_ref(expect, logits, problem.vocab, row);
        best == draft ? ++accepted : next = best;
        continue;
      }
      std::vector<double> p = distribution_ref(expect, logits, problem.vocab, args.params, row);
      if (draft >= 0) {
        double& q = p[static_cast<std::size_t>(draft)];
        if (static_cast<double>(at(args.coins, b, i)) < q) {
          ++accepted;
          continue;
        }
        q = 0;
      }
      next = draw_ref(p, at(args.coins, b, problem.drafts));
    }
    args.accepted.as<std::int32_t>()[b * args.accepted.step(0)] = static_cast<std::int32_t>(accepted);
    args.next_token.as<std::int32_t>()[b * args.next_token.step(0)] = static_cast<std::int32_t>(next);
  }
}

}  // namespace fathom
