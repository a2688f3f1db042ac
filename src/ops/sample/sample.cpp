// sample: checks, and the choice of an implementation.
#include "fathom/ops/sample.hpp"

#include <limits>

#include "ops/dispatch.hpp"
#include "ops/sample/sample_impl.hpp"
#include "ops/sampling.hpp"

namespace fathom {
namespace {

using Impl = Implementation<SampleProblem, SampleArgs>;

// Best first. The reference is last and takes every valid problem.
constexpr Impl kImplementations[] = {
    {"cpu:simd", always, sample_cpu},
    {"ref:any", always, sample_ref, /*fallback=*/true},
};

SampleProblem validate(const SampleArgs& args, Device device) {
  const Expect expect{SampleProblem::op, device};
  expect.rank("logits", args.logits, 2);
  check_sampling_params(expect, args.params);
  const SampleProblem problem{.rows = args.logits.size(0),
                              .vocab = args.logits.size(1),
                              .greedy = args.params.temperature == 0,
                              .filtered = cuts(args.params, args.logits.size(1))};
  expect.tensor("logits", args.logits, {DType::f32}, {-1, -1});
  expect.at_least("vocab", problem.vocab, 1);
  if (problem.vocab > std::numeric_limits<std::int32_t>::max()) {
    expect.fail("logits", "have fewer than 2^31 columns", shape_string(args.logits));
  }
  if (!problem.greedy) check_coins(expect, args.coins, {problem.rows});
  expect.tensor("tokens", args.tokens, {DType::i32}, {problem.rows});
  if (args.shares.given()) expect.tensor("shares", args.shares, {DType::f32}, {problem.rows});
  return problem;
}

}  // namespace

extern const OpInfo sample_info;
const OpInfo sample_info =
    make_op_info("draws one token from every row of logits", SampleProblem{}, kImplementations);

void sample(const SampleArgs& args, const Context& context) {
  dispatch(kImplementations, validate, args, context);
}

}  // namespace fathom
