// The oracle of sample: a full sort, everything in double.
#include "ops/elements.hpp"
#include "ops/sample/sample_impl.hpp"
#include "ops/sampling.hpp"

namespace fathom {

void sample_ref(const SampleProblem& problem, const SampleArgs& args, const Context&) {
  const Expect expect{SampleProblem::op};
  for (std::int64_t r = 0; r < problem.rows; ++r) {
    const float* logits = args.logits.as<float>() + r * args.logits.step(0);
    const std::int64_t token =
        problem.greedy
            ? argmax_ref(expect, logits, problem.vocab, r)
            : draw_ref(distribution_ref(expect, logits, problem.vocab, args.params, r), at(args.coins, r));
    args.tokens.as<std::int32_t>()[r * args.tokens.step(0)] = static_cast<std::int32_t>(token);
    if (!args.shares.given()) continue;
    const auto p = distribution_ref(expect, logits, problem.vocab, {.temperature = 1}, r);
    args.shares.as<float>()[r * args.shares.step(0)] = static_cast<float>(p[static_cast<std::size_t>(token)]);
  }
}

}  // namespace fathom
