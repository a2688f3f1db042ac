// verify_drafts on the CPU: chains on the threads, each row with the shared fast distribution.
#include "cpu/sampling.hpp"
#include "ops/sampling.hpp"
#include "ops/verify_drafts/verify_drafts_impl.hpp"

namespace fathom {
namespace {

// Follows chain b.
void verify_chain(const VerifyDraftsProblem& problem, const VerifyDraftsArgs& args, std::int64_t b) {
  const std::int32_t* drafts = args.drafts.as<std::int32_t>() + b * args.drafts.step(0);
  const float* coins = problem.greedy ? nullptr : args.coins.as<float>() + b * args.coins.step(0);
  thread_local cpu::TokenDistribution p;
  std::int64_t accepted = 0;
  std::int64_t next = -1;
  for (; next < 0; ++accepted) {
    const std::int64_t draft = accepted < problem.drafts ? drafts[accepted] : -1;
    const float* logits = args.logits.as<float>() + b * args.logits.step(0) + accepted * args.logits.step(1);
    std::int64_t best = 0;
    if (problem.greedy) {
      best = cpu::largest_logit(logits, problem.vocab);
    } else if (!p.load(logits, problem.vocab, args.params)) {
      best = -1;
    }
    if (best < 0) fail_without_logit(Expect{VerifyDraftsProblem::op}, b * (problem.drafts + 1) + accepted);
    if (problem.greedy) {
      if (best == draft) continue;
      next = best;
      break;
    }
    if (draft >= 0) {
      if (static_cast<double>(coins[accepted]) < p.share(draft)) continue;
      p.remove(draft);
    }
    next = p.draw(coins[problem.drafts]);
    break;
  }
  args.accepted.as<std::int32_t>()[b * args.accepted.step(0)] = static_cast<std::int32_t>(accepted);
  args.next_token.as<std::int32_t>()[b * args.next_token.step(0)] = static_cast<std::int32_t>(next);
}

}  // namespace

void verify_drafts_cpu(const VerifyDraftsProblem& problem, const VerifyDraftsArgs& args,
                       const Context& context) {
  const auto run = [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t b = begin; b < end; ++b) verify_chain(problem, args, b);
  };
  constexpr std::int64_t kLogitsPerTask = 1 << 14;
  const std::int64_t grain =
      std::max<std::int64_t>(1, kLogitsPerTask / (problem.vocab * (problem.drafts + 1)));
  if (problem.batch <= grain) return run(0, problem.batch);
  context.parallel_for(problem.batch, grain, run);
}

}  // namespace fathom
