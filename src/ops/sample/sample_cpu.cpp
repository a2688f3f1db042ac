// sample on the CPU: rows on the threads, each with the shared fast distribution.
#include "cpu/sampling.hpp"
#include "ops/sample/sample_impl.hpp"
#include "ops/sampling.hpp"

namespace fathom {

void sample_cpu(const SampleProblem& problem, const SampleArgs& args, const Context& context) {
  const auto run = [&](std::int64_t begin, std::int64_t end) {
    thread_local cpu::TokenDistribution distribution;
    for (std::int64_t r = begin; r < end; ++r) {
      const float* logits = args.logits.as<float>() + r * args.logits.step(0);
      std::int64_t token = -1;
      if (problem.greedy) {
        token = cpu::largest_logit(logits, problem.vocab);
      } else if (distribution.load(logits, problem.vocab, args.params)) {
        token = distribution.draw(args.coins.as<float>()[r * args.coins.step(0)]);
      }
      if (token < 0) fail_without_logit(Expect{SampleProblem::op}, r);
      args.tokens.as<std::int32_t>()[r * args.tokens.step(0)] = static_cast<std::int32_t>(token);
      if (!args.shares.given()) continue;
      distribution.load(logits, problem.vocab, {.temperature = 1});
      args.shares.as<float>()[r * args.shares.step(0)] = static_cast<float>(distribution.share(token));
    }
  };
  const std::int64_t logits_per_task = problem.greedy ? 1 << 17 : 1 << 13;
  const std::int64_t grain = std::max<std::int64_t>(1, logits_per_task / problem.vocab);
  if (problem.rows <= grain) return run(0, problem.rows);
  context.parallel_for(problem.rows, grain, run);
}

}  // namespace fathom
