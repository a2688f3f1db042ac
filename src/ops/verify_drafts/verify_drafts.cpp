// verify_drafts: checks, and the choice of an implementation.
#include "fathom/ops/verify_drafts.hpp"

#include <limits>

#include "ops/dispatch.hpp"
#include "ops/sampling.hpp"
#include "ops/verify_drafts/verify_drafts_impl.hpp"

namespace fathom {
namespace {

using Impl = Implementation<VerifyDraftsProblem, VerifyDraftsArgs>;

// Best first. The reference is last and takes every valid problem.
constexpr Impl kImplementations[] = {
    {"cpu:simd", always, verify_drafts_cpu},
    {"ref:any", always, verify_drafts_ref, /*fallback=*/true},
};

VerifyDraftsProblem validate(const VerifyDraftsArgs& args, Device device) {
  const Expect expect{VerifyDraftsProblem::op, device};
  expect.rank("logits", args.logits, 3);
  check_sampling_params(expect, args.params);
  const VerifyDraftsProblem problem{.batch = args.logits.size(0),
                                    .drafts = args.logits.size(1) - 1,
                                    .vocab = args.logits.size(2),
                                    .greedy = args.params.temperature == 0,
                                    .filtered = cuts(args.params, args.logits.size(2))};
  expect.at_least("drafts", problem.drafts, 0);
  expect.tensor("logits", args.logits, {DType::f32}, {-1, -1, -1});
  expect.at_least("vocab", problem.vocab, 1);
  if (problem.vocab > std::numeric_limits<std::int32_t>::max()) {
    expect.fail("logits", "have fewer than 2^31 columns", shape_string(args.logits));
  }
  expect.tensor("drafts", args.drafts, {DType::i32}, {problem.batch, problem.drafts});
  for (std::int64_t b = 0; b < problem.batch; ++b) {
    for (std::int64_t i = 0; i < problem.drafts; ++i) {
      const std::int64_t draft = args.drafts.as<std::int32_t>()[b * args.drafts.step(0) + i];
      if (draft >= -1 && draft < problem.vocab) continue;
      expect.fail("drafts", "be in [-1," + std::to_string(problem.vocab) + ")",
                  std::to_string(draft) + " at draft " + std::to_string(i) + " of row " + std::to_string(b));
    }
  }
  if (!problem.greedy) check_coins(expect, args.coins, {problem.batch, problem.drafts + 1});
  expect.tensor("accepted", args.accepted, {DType::i32}, {problem.batch});
  expect.tensor("next_token", args.next_token, {DType::i32}, {problem.batch});
  return problem;
}

}  // namespace

extern const OpInfo verify_drafts_info;
const OpInfo verify_drafts_info = make_op_info("accepts drafts such that the target's distribution is kept",
                                               VerifyDraftsProblem{}, kImplementations);

void verify_drafts(const VerifyDraftsArgs& args, const Context& context) {
  dispatch(kImplementations, validate, args, context);
}

}  // namespace fathom
