#include "ops/dsa_attention/dsa_attention_test.hpp"

namespace fathom {
namespace {

DsaAttentionProblem formats_f32() {
  DsaAttentionProblem p = small_layer();
  p.x = p.inner = p.compute = p.out = p.weight = p.absorbed = p.kv = p.index = DType::f32;
  return p;
}
DsaAttentionProblem formats_bf16() {
  DsaAttentionProblem p = small_layer();
  p.weight = p.absorbed = p.kv = DType::bf16;
  p.ue8m0 = true;
  return p;
}
DsaAttentionProblem formats_of_the_engine() {
  DsaAttentionProblem p = small_layer();
  p.x = p.inner = p.out = DType::f32;
  p.accumulate = true;
  return p;
}
std::vector<DsaAttentionProblem> all_formats() {
  return {small_layer(), formats_bf16(), formats_of_the_engine(), formats_f32()};
}

TensorView row_of(const Tensor& t, std::int64_t r) { return t.view().rows(r, r + 1); }

// In double, the caches included. One row whose choice differs in a single entry would show.
TEST(DsaAttention, AgreesWithTheOracle) {
  for (const DsaAttentionProblem& p : all_formats()) {
    SCOPED_TRACE(problem_string(p));
    const DsaLayer layer(p, 1);
    DsaRun chain(layer, test_context()), oracle(layer, forced_context("dsa_attention=ref:any"));
    const auto compare = [&](ForwardMode mode, const std::vector<DsaShareOfTest>& shares,
                             const DsaStepOptions& options = {}) {
      const Tensor got = chain.step(mode, shares, options);
      const Tensor expected = oracle.step(mode, shares, options);
      EXPECT_LT(calc_diff(got, expected), p.compute == DType::f32 ? 1e-9 : 1e-3) << to_string(mode);
    };
    compare(ForwardMode::extend, {{0, 0, 61}, {2, 0, 10}, {1, 0, 24}});
    compare(ForwardMode::extend, {{0, 61, 9}, {1, 24, 2}});
    compare(ForwardMode::decode, {{0, 70, 1}, {1, 26, 1}, {2, 10, 1}});
    compare(ForwardMode::target_verify, {{0, 71, 4}, {2, 11, 4}});
    compare(ForwardMode::draft_extend, {{0, 75, 1}, {1, 27, 3}}, {.packed = true});
  }
}

// Every row of every mode has the bytes of the row in one whole prefill of its sequence alone: chunks,
// batches, pages in any order, drafts scored natively or as requests of their own, threads, blocks of scores.
TEST(DsaAttention, ChunksModesAndBatchesChangeNothing) {
  for (const DsaAttentionProblem& p : all_formats()) {
    SCOPED_TRACE(problem_string(p));
    const DsaLayer layer(p, 2);
    std::vector<Tensor> whole;
    for (std::int64_t s = 0; s < 3; ++s) {
      DsaRun alone(layer, test_context(1));
      whole.push_back(alone.step(ForwardMode::extend, {{s, 0, 90}}));
    }
    DsaRun together(layer, test_context(2));
    const auto check = [&](ForwardMode mode, const std::vector<DsaShareOfTest>& shares,
                           const DsaStepOptions& options = {}) {
      const Tensor got = together.step(mode, shares, options);
      std::int64_t row = 0;
      for (const DsaShareOfTest& share : shares) {
        for (std::int64_t i = 0; i < share.extend; ++i)
          expect_same_bytes(row_of(got, row++),
                            row_of(whole[static_cast<std::size_t>(share.sequence)], share.prefix + i));
      }
    };
    check(ForwardMode::extend, {{2, 0, 5}, {0, 0, 63}, {1, 0, 24}}, {.score_bytes = 4});
    check(ForwardMode::extend, {{1, 24, 40}, {0, 63, 2}, {2, 5, 1}}, {.score_bytes = 3000});
    check(ForwardMode::decode, {{0, 65, 1}, {1, 64, 1}, {2, 6, 1}});
    check(ForwardMode::decode, {{2, 7, 1}});                         // dense
    check(ForwardMode::decode, {{2, 8, 1}}, {.max_seqlen_k = 150});  // a graph's bound: scored
    check(ForwardMode::target_verify, {{0, 66, 8}, {2, 9, 8}, {1, 65, 8}});
    check(ForwardMode::target_verify, {{0, 66, 8}, {2, 9, 8}, {1, 65, 8}}, {.score_bytes = 4});
    check(ForwardMode::target_verify, {{0, 70, 4}, {1, 66, 4}});                   // drafts were refused
    check(ForwardMode::draft_extend, {{0, 70, 4}, {1, 66, 4}});                    // natively
    check(ForwardMode::draft_extend, {{0, 70, 4}, {1, 66, 4}}, {.packed = true});  // and flattened
    check(ForwardMode::draft_extend, {{0, 74, 1}, {1, 70, 5}, {2, 17, 2}}, {.packed = true});
    check(ForwardMode::draft_extend, {{0, 74, 1}, {1, 70, 5}, {2, 17, 2}},
          {.packed = true, .score_bytes = 3 * 128 * 4});
    check(ForwardMode::decode, {{0, 75, 1}, {1, 75, 1}, {2, 19, 1}}, {.score_bytes = 2 * 128 * 4});
  }
}

// How tokens lie on pages shows nowhere.
TEST(DsaAttention, PagesOfAnySizeChangeNothing) {
  for (const DsaAttentionProblem& p : all_formats()) {
    const DsaLayer usual(p, 6);
    for (const std::int64_t page : {16, 32, 128}) {
      DsaAttentionProblem other = p;
      other.page = page;
      SCOPED_TRACE(problem_string(other));
      const DsaLayer layer(other, 6);
      DsaRun expected(usual, test_context()), got(layer, test_context());
      DsaRun oracle(layer, forced_context("dsa_attention=ref:any"));
      const auto compare = [&](ForwardMode mode, const std::vector<DsaShareOfTest>& shares,
                               const DsaStepOptions& options = {}) {
        const Tensor out = got.step(mode, shares, options);
        expect_same_bytes(out, expected.step(mode, shares, options));
        EXPECT_LT(calc_diff(out, oracle.step(mode, shares, options)), p.compute == DType::f32 ? 1e-9 : 1e-3)
            << to_string(mode);
      };
      compare(ForwardMode::extend, {{0, 0, 15}, {1, 0, 20}});  // nothing is scored
      compare(ForwardMode::extend, {{0, 15, 50}, {2, 0, 33}, {1, 20, 1}}, {.score_bytes = 3000});
      compare(ForwardMode::target_verify, {{0, 65, 4}, {2, 33, 4}});
      compare(ForwardMode::draft_extend, {{0, 65, 4}, {1, 21, 2}}, {.packed = true});
      compare(ForwardMode::decode, {{0, 69, 1}, {1, 23, 1}, {2, 37, 1}});
    }
  }
}

// Padding gives zeros, disturbs nobody and is stored nowhere.
TEST(DsaAttention, PaddingAndIdle) {
  for (const DsaAttentionProblem& p : all_formats()) {
    SCOPED_TRACE(problem_string(p));
    const DsaLayer layer(p, 3);
    DsaRun plain(layer, test_context()), padded(layer, test_context());
    const auto expect_padding = [&](const Tensor& out, std::int64_t row) {
      for (std::int64_t i = 0; i < p.hidden; ++i)
        EXPECT_EQ(out[row * p.hidden + i], p.accumulate ? 1.0 : 0.0) << row;
    };
    const Tensor first = plain.step(ForwardMode::extend, {{0, 0, 70}, {1, 0, 30}});
    const Tensor with =
        padded.step(ForwardMode::extend, {{0, 0, 70}, {2, -1, 4}, {1, 0, 30}}, {.padding_rows = 3});
    expect_same_bytes(with.view().rows(0, 100), first);
    for (std::int64_t r = 100; r < 103; ++r) expect_padding(with, r);
    const Tensor next = plain.step(ForwardMode::target_verify, {{0, 70, 2}, {1, 30, 2}});
    const Tensor after =
        padded.step(ForwardMode::target_verify, {{2, -5, 2}, {0, 70, 2}, {2, -1, 2}, {1, 30, 2}});
    expect_same_bytes(after.view().rows(2, 4), next.view().rows(0, 2));
    expect_same_bytes(after.view().rows(6, 8), next.view().rows(2, 4));
    for (const std::int64_t r : {0, 1, 4, 5}) expect_padding(after, r);
    const Tensor idle = padded.step(ForwardMode::idle, {}, {.padding_rows = 2, .max_seqlen_k = 100});
    expect_padding(idle, 0);
    expect_padding(idle, 1);
    EXPECT_EQ(padded.step(ForwardMode::idle, {}).count(), 0);
    expect_same_bytes(padded.kv, plain.kv);
    expect_same_bytes(padded.index, plain.index);
  }
}

TEST(DsaAttention, StoresWithoutAttending) {
  const DsaLayer layer(formats_of_the_engine(), 4);
  DsaRun all(layer, test_context()), only(layer, test_context());
  (void)all.step(ForwardMode::extend, {{0, 0, 70}});
  (void)only.step(ForwardMode::extend, {{0, 0, 70}}, {.store_only = true});
  expect_same_bytes(only.kv, all.kv);
  expect_same_bytes(only.index, all.index);
}

TEST(DsaAttention, RejectsBadArguments) {
  const DsaLayer layer(formats_of_the_engine(), 5);
  const DsaInput input(layer, ForwardMode::extend, {{0, 0, 30}});
  const Tensor ints = input.ints(layer);
  const DsaMetadata metadata = dsa_metadata_in(input.metadata, ints);
  const auto here = [](const Tensor& t) { return t.view(); };
  const DsaAttentionWeights weights = layer.weights(here);
  const Tensor kv = layer.kv_cache(), index = layer.index_cache(), out = poisoned(DType::f32, {30, 192});
  DsaAttentionArgs good = input.args(layer, weights, metadata, here);
  good.kv_cache = kv;
  good.index_cache = index;
  good.out = out;
  const Tensor workspace = poisoned(DType::u8, {dsa_attention_workspace(dsa_attention_problem(good))});
  good.workspace = workspace;
  const auto expect_error = [&](const std::string& text, const auto& change) {
    DsaAttentionArgs args = good;
    change(args);
    EXPECT_ERROR(InvalidArgument, "dsa_attention: " + text, dsa_attention(args, test_context()));
    expect_same_bytes(kv, layer.kv_cache());
  };
  expect_error("'workspace' must have at least", [](auto& args) { --args.workspace.shape[0]; });
  DsaAttentionWeights none = weights;
  none.w_uk.values.shape[0] = 0;
  EXPECT_ERROR(InvalidArgument, "dsa_attention: 'heads' must be at least 1, got 0",
               dsa_attention(input.args(layer, none, metadata, here), test_context()));
  expect_error("'keys' must be at least the sum of the lengths, 30, got 29",
               [](auto& args) { args.keys = 29; });
  expect_error("'inner' must be f32 where compute is, got bf16",
               [](auto& args) { args.inner = DType::bf16, args.compute = DType::f32; });
  expect_error("'inner' must be f32 or bf16, got i32", [](auto& args) { args.inner = DType::i32; });
  expect_error("'indices' must be left out where max_seqlen_k exceeds index_topk, got 30",
               [](auto& args) { args.indices = args.metadata.block_table; });
  expect_error("'selected' must have shape [30,24], got [30,192]", [](auto& args) {
    args.selected = args.out;
    args.selected.dtype = DType::i32;
  });
  expect_error("'out' must have shape [30,192], got [30,191]", [](auto& args) { args.out.shape[1] = 191; });
  expect_error("'index_cache' must have pages of 16, 32, 64 or 128 keys of 128 + 4 bytes, got [10,6336]",
               [](auto& args) { args.index_cache.shape[1] = 48 * 132; });
  expect_error("'slots' must be those of pages of 32 tokens, as index_cache has, got",
               [](auto& args) { args.index_cache.shape[1] = 32 * 132; });
  expect_error("'softmax_scale' must be finite", [](auto& args) { args.softmax_scale = INFINITY; });
}

TEST(DsaAttention, WorkspaceOfALayerOfDeepSeekV32) {
  // The largest parts: the scores of 64 rows, and queries, attended latents and values of 128 heads.
  const std::int64_t bytes = dsa_attention_workspace({});
  EXPECT_GE(bytes, 64 * 128 * (576 + 512 + 128) * 2);
  EXPECT_LE(bytes, 64 * 128 * (576 + 512 + 128) * 2 + (std::int64_t{16} << 20));
  DsaAttentionProblem prefill{.mode = ForwardMode::extend, .batch = 1, .rows = 4096, .keys = 32768};
  EXPECT_LE(dsa_attention_workspace(prefill), std::int64_t{2} << 30);
  prefill.score_bytes = 1 << 20;
  EXPECT_EQ(dsa_attention_workspace(prefill) % 256, 0);
  // Of all rows at once they would take a GiB: 256 requests with 8 drafts of 131072 positions.
  DsaAttentionProblem verify{.mode = ForwardMode::target_verify, .batch = 256, .rows = 2048};
  verify.max_seqlen_k = 131072;
  const std::int64_t within = dsa_attention_workspace(verify);
  verify.score_bytes = std::int64_t{1} << 30;
  EXPECT_GE(dsa_attention_workspace(verify) - within, std::int64_t{256} << 20);
}

}  // namespace
}  // namespace fathom
