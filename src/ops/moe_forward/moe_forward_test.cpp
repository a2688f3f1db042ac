#include "fathom/ops/moe_forward.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "ops/moe_forward/moe_forward_impl.hpp"
#include "ops/moe_forward/moe_forward_test.hpp"
#include "ops/silu.hpp"

namespace fathom {
namespace {

MoeForwardProblem small(std::int64_t tokens) {
  return {.tokens = tokens, .top_k = 2, .experts = 6, .hidden = 256, .intermediate = 128, .shared = 0};
}

TEST(MoeForward, AgreesWithTheOracle) {
  for (const DType inner : {DType::f32, DType::bf16}) {
    for (MoeForwardProblem p :
         {small(0), small(1), small(7),
          MoeForwardProblem{
              .tokens = 5, .top_k = 3, .experts = 9, .hidden = 200, .intermediate = 72, .shared = 40},
          MoeForwardProblem{
              .tokens = 3, .top_k = 1, .experts = 1, .hidden = 130, .intermediate = 300, .shared = 136}}) {
      p.inner = inner;
      p.x = p.tokens % 2 == 1 ? DType::bf16 : DType::f32;
      p.out = inner;
      p.accumulate = inner == DType::f32 && p.tokens == 7;
      SCOPED_TRACE(problem_string(p));
      MoeCase problem(p, 3);
      const Tensor got = problem.run(test_context());
      const Tensor expected = problem.run(forced_context("moe_forward=ref:any"));
      // Sums of f32 may move a value of the activation by one code.
      if (p.tokens > 0) {
        EXPECT_LT(calc_diff(got, expected), 3e-6);
      }
      EXPECT_EQ(got.count(), p.tokens * p.hidden);
    }
  }
}

// Dequantised weights, nothing else rounded.
TEST(MoeForward, IsNearTheMixtureInDouble) {
  const MoeForwardProblem p{.tokens = 9,
                            .top_k = 3,
                            .experts = 5,
                            .hidden = 256,
                            .intermediate = 256,
                            .shared = 128,
                            .out = DType::f32};
  MoeCase problem(p, 4);
  const Tensor got = problem.run(test_context());
  EXPECT_LT(calc_diff(got, problem.in_double()), 1e-3);
}

TEST(MoeForward, LayoutsThreadsAndOtherTokensChangeNothing) {
  for (const std::int64_t tokens : {1, 40}) {
    MoeForwardProblem p = small(tokens);
    p.shared = 64;
    p.out = DType::f32;
    MoeCase problem(p, 5);
    const Tensor expected = problem.run(test_context(2));
    for (const GroupLayout layout : {GroupLayout::masked, GroupLayout::contiguous, GroupLayout::offsets}) {
      problem.p.layout = layout;
      expect_same_bytes(problem.run(test_context(1)), expected);
    }
    for (std::int64_t t = 0; t < tokens; t += 7) {
      expect_same_bytes(problem.run(test_context(), t, t + 1), expected.view().rows(t, t + 1));
    }
  }
}

TEST(MoeForward, TokensAroundABlock) {
  for (const std::int64_t tokens : {255, 256, 257}) {
    MoeForwardProblem p = small(tokens);
    p.hidden = 128;
    p.intermediate = 16;
    MoeCase problem(p, tokens);
    const Tensor got = problem.run(test_context());
    expect_same_bytes(problem.run(test_context(), tokens - 1, tokens), got.view().rows(tokens - 1, tokens));
    problem.p.layout = GroupLayout::masked;
    expect_same_bytes(problem.run(test_context()), got);
  }
}

// One expert has all rows, most have none; tokens without any expert get zeros, or what was there.
TEST(MoeForward, EmptyAndOverfullExperts) {
  MoeForwardProblem p = small(20);
  p.out = DType::f32;
  for (const GroupLayout layout : {GroupLayout::masked, GroupLayout::contiguous, GroupLayout::offsets}) {
    for (const bool accumulate : {false, true}) {
      p.layout = layout;
      p.accumulate = accumulate;
      MoeCase problem(p, 6);
      for (std::int64_t t = 0; t < 20; ++t) {
        problem.ids.set(2 * t, t < 15 ? 4 : -1);
        problem.ids.set(2 * t + 1, -1);
        problem.weights.set(2 * t + 1, std::nan(""));
      }
      const Tensor got = problem.run(test_context());
      for (std::int64_t i = 15 * p.hidden; i < got.count(); ++i) {
        EXPECT_EQ(got[i], accumulate ? problem.base[i] : 0.0);
      }
      const Tensor expected = problem.run(forced_context("moe_forward=ref:any"));
      EXPECT_LT(calc_diff(got, expected), 3e-6);
    }
  }
}

// The shared expert as the last of the experts, last among a token's: the same bytes.
TEST(MoeForward, ASharedExpertMayBeOneOfTheExperts) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    MoeForwardProblem apart = small(9);
    apart.shared = apart.intermediate;
    apart.inner = apart.out = dtype;
    MoeCase problem(apart, 8);
    MoeCase together = with_shared_expert(problem);
    EXPECT_EQ(together.p.experts, 7);
    const Tensor expected = problem.run(test_context());
    expect_same_bytes(together.run(test_context()), expected);
    together.p.layout = GroupLayout::masked;
    expect_same_bytes(together.run(test_context()), expected);
  }
}

TEST(MoeForward, WorkspaceGrowsWithWhatItHolds) {
  const auto bytes = [](const MoeForwardProblem& p) { return moe_forward_workspace(p); };
  EXPECT_EQ(bytes(small(3)) % 256, 0);
  EXPECT_LT(bytes(small(3)), bytes(small(300)));
  MoeForwardProblem masked = small(300);
  masked.layout = GroupLayout::masked;
  EXPECT_GT(bytes(masked), bytes(small(300)));
  // DeepSeek-V3.2, a chunk of 4096 tokens: rows of y are the largest part.
  const std::int64_t rows = 4096 * 8;
  EXPECT_GE(bytes({.tokens = 4096}), rows * 7168 * 2);
  EXPECT_LE(bytes({.tokens = 4096}), rows * (7168 * 2 + 2048 * 2) + (std::int64_t{1} << 27));
}

TEST(MoeForward, RejectsBadArguments) {
  MoeCase problem(small(3), 7);
  const MoeForwardArgs good =
      problem.args(problem.x, problem.ids, problem.weights, problem.base, problem.workspace);
  const auto expect_error = [](const std::string& text, const MoeForwardArgs& args) {
    EXPECT_ERROR(InvalidArgument, "moe_forward: " + text, moe_forward(args, test_context()));
  };
  MoeForwardArgs args = good;
  args.workspace.shape[0] = moe_forward_workspace(small(3)) - 1;
  expect_error("'workspace' must have at least", args);
  args = good;
  args.workspace.data = args.workspace.as<std::byte>() + 16;
  expect_error("'workspace' must begin on 256 bytes", args);
  args = good;
  args.accumulate = true;
  expect_error("'out' must be f32, got bf16", args);
  args = good;
  args.gate_up = {};
  expect_error("'gate_up' must have at least 1 expert, got 0", args);
  args = good;
  args.down = args.down.subspan(1);
  expect_error("'down' must have 6 groups, got 5", args);
  args = good;
  args.inner = DType::i32;
  expect_error("'inner' must be f32 or bf16, got i32", args);
  args = good;
  args.x.shape[1] = 128;
  expect_error("'gate_up' must have shape [256,128], got [256,256]", args);
}

TEST(MoeForward, RejectsIdsBeforeItWrites) {
  MoeForwardProblem p = small(3);
  p.shared = 64;
  MoeCase problem(p, 8);
  for (const std::string implementation : {"cpu:chain", "ref:any"}) {
    for (const int wrong : {6, -2, 1 << 30}) {
      SCOPED_TRACE(implementation);
      const Tensor ids = tensor_of<int>(DType::i32, {3, 2}, {0, 1, -1, wrong, 3, 4});
      const Tensor out = poisoned(p.out, {3, p.hidden});
      const MoeForwardArgs args = problem.args(problem.x, ids, problem.weights, out, problem.workspace);
      EXPECT_ERROR(
          InvalidArgument,
          "moe_forward: 'ids' must be in [-1,6), got " + std::to_string(wrong) + " for slot 1 of token 1",
          moe_forward(args, forced_context("moe_forward=" + implementation)));
      expect_same_bytes(out, poisoned(p.out, {3, p.hidden}));
    }
  }
}

}  // namespace
}  // namespace fathom
