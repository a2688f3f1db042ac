// A layer's attention on a device: near the host's, the same bytes in every mode, and in graphs that were
// recorded with other lengths.
#include <map>
#include <memory>

#include "fathom/cuda/device.hpp"
#include "fathom/ops/batched_gemm_nt.hpp"
#include "ops/dsa_attention/dsa_attention_test.hpp"
#include "twin.hpp"
#include "warm_up.hpp"

namespace fathom {
namespace {

// The general kernels; those for Hopper have tests of their own.
const std::string kChain = "dsa_attention=cuda:chain,cuda:simt";

// A layer and its caches on the device. Tensors are copied when they are first asked for.
class DeviceLayer {
 public:
  explicit DeviceLayer(const DsaLayer& layer, const std::string& chain = kChain)
      : layer_(layer), chain_(chain), kv_host_(layer.kv_cache()), index_host_(layer.index_cache()) {}

  TensorView place(const Tensor& tensor) const {
    auto& copy = copies_[&tensor];
    if (!copy) copy = std::make_unique<OnDevice>(tensor);
    return copy->view();
  }
  // What a step needs, the workspace and the output included; `run` may be repeated and recorded.
  class Step {
   public:
    Step(const DeviceLayer& layer, const DsaInput& input)
        : layer_(layer),
          input_(input),
          ints_host_(input.ints(layer.layer_)),
          x_(input.x),
          ints_(ints_host_),
          out_(before(layer.layer_.p, input.metadata.rows)),
          metadata_(dsa_metadata_in(input.metadata, ints_)),
          weights_(layer.layer_.weights([&](const Tensor& t) { return layer.place(t); })),
          workspace_(device_context(), dsa_attention_workspace(dsa_attention_problem(args()))) {}
    void run(const Context& context) const {
      DsaAttentionArgs with = args();
      with.workspace = workspace_.view(DType::u8, {workspace_.size()});
      dsa_attention(with, context);
    }
    Strided result() const { return result(device_context(layer_.chain_)); }
    Strided result(const Context& context) const {
      cuda::fill(context, workspace_.data(), 0xff, workspace_.size());
      run(context);
      return out_.download();
    }
    // The same after the metadata of these lengths, by the device.
    void run_with_metadata(const TensorView& prefix_lens, const TensorView& ids,
                           const Context& context) const {
      dsa_metadata({.mode = input_.metadata.mode,
                    .prefix_lens = prefix_lens,
                    .page_table = layer_.place(layer_.layer_.page_table),
                    .request_ids = ids,
                    .index_topk = input_.metadata.index_topk,
                    .page_tokens = input_.metadata.page_tokens,
                    .out = metadata_},
                   context);
      run(context);
    }
    std::string problem() const { return problem_string(dsa_attention_problem(args())); }
    // The metadata and the rows of another step of the same shape.
    void update(const DsaInput& other) const {
      ints_.upload(other.ints(layer_.layer_));
      x_.upload(other.x);
    }
    const OnDevice& out() const { return out_; }

   private:
    static Tensor before(const DsaAttentionProblem& p, std::int64_t rows) {
      Tensor out = poisoned(p.out, {rows, p.hidden});
      if (p.accumulate) std::fill_n(out.as<float>(), out.count(), 1.0f);
      return out;
    }
    DsaAttentionArgs args() const {
      const auto there = [&](const Tensor& t) { return &t == &input_.x ? x_.view() : layer_.place(t); };
      DsaAttentionArgs args = input_.args(layer_.layer_, weights_, metadata_, there);
      args.kv_cache = layer_.place(layer_.kv_host_);
      args.index_cache = layer_.place(layer_.index_host_);
      if (!input_.options.store_only) args.out = out_;
      return args;
    }

    const DeviceLayer& layer_;
    const DsaInput& input_;
    Tensor ints_host_;
    OnDevice x_, ints_, out_;
    DsaMetadata metadata_;
    DsaAttentionWeights weights_;
    cuda::DeviceBuffer workspace_;
  };

  Strided step(ForwardMode mode, const std::vector<DsaShareOfTest>& shares,
               const DsaStepOptions& options = {}) {
    const DsaInput input(layer_, mode, shares, options);
    return Step(*this, input).result();
  }

 private:
  const DsaLayer& layer_;
  std::string chain_;
  Tensor kv_host_, index_host_;
  mutable std::map<const Tensor*, std::unique_ptr<OnDevice>> copies_;
};

std::vector<DsaAttentionProblem> formats() {
  DsaAttentionProblem bf16 = small_layer();
  bf16.weight = bf16.absorbed = bf16.kv = DType::bf16;
  bf16.ue8m0 = true;
  DsaAttentionProblem engine = small_layer();
  engine.x = engine.inner = engine.out = DType::f32;
  engine.accumulate = true;
  return {small_layer(), bf16, engine};
}

/// Both implementations, those that decline left out; groups apart, a token alone.
TEST(BatchedGemmOnDevice, AgreesWithTheHost) {
  struct Case {
    std::int64_t tokens, groups, n, k;
    bool tensor_cores;
  };
  for (const DType w : {DType::f8e4m3, DType::bf16}) {
    for (const auto& [tokens, groups, n, k, tensor_cores] : {Case{1, 3, 130, 70, false},
                                                             {70, 2, 65, 128, true},
                                                             {5, 1100, 3, 5, false},
                                                             {0, 2, 4, 4, false},
                                                             {64, 9, 512, 128, true},
                                                             {67, 3, 200, 128, true},
                                                             {130, 5, 128, 512, true},
                                                             {515, 2, 200, 48, true},
                                                             {3, 4, 257, 304, true}}) {
      SCOPED_TRACE(testing::Message() << tokens << " tokens, " << groups << " groups, " << n << " x " << k);
      const Seed seed;
      Random random(seed.value);
      const auto blocks = [](std::int64_t size) { return (size + 127) / 128; };
      const Tensor x = random.normal(DType::bf16, {tokens, groups, k});
      const Tensor weights = random.normal(w, {groups, n, k});
      const Tensor scale = random.uniform(DType::f32, {groups, blocks(n), blocks(k)}, 0.5, 2);
      const TensorView scales = w == DType::f8e4m3 ? scale.view() : TensorView{};
      const OnDevice x_there(x), weights_there(weights), scale_there(scale);
      for (const DType dtype : {DType::f32, DType::bf16}) {
        const std::int64_t row = n % 8 == 0 ? n + 8 : n + 3;
        const Tensor out = poisoned(dtype, {tokens * groups, row});
        const auto shaped_out = [&, g = groups, t = tokens, n = n](const TensorView& all) {
          return shaped(all, {t, g, n}, {g * row, row, 1});
        };
        const OnDevice out_there(out.view(), shaped_out(out));
        batched_gemm_nt({.x = x, .w = weights, .out = shaped_out(out), .w_scale = scales}, test_context());
        const auto run = [&](std::int64_t first, std::int64_t last, const std::string& implementation) {
          batched_gemm_nt({.x = x_there.view().rows(first, last),
                           .w = weights_there,
                           .out = out_there.view().rows(first, last),
                           .w_scale = scales.given() ? scale_there.view() : TensorView{}},
                          device_context(implementation));
        };
        for (const std::string implementation : {"cuda:simt", "sm90:wgmma"}) {
          if (implementation == "sm90:wgmma" && !tensor_cores) continue;
          SCOPED_TRACE(implementation);
          run(0, tokens, implementation);
          const Strided got = out_there.download();
          if (tokens == 0) continue;
          expect_close(got.view, shaped_out(out),
                       {.relative = dtype == DType::bf16 ? 8e-3 : 1e-5, .absolute = 1e-3});
          run(tokens - 1, tokens, implementation);
          expect_same_bytes(out_there.download().buffer, got.buffer);
        }
      }
    }
  }
}

TEST(DsaAttentionOnDevice, AgreesWithTheHost) {
  for (const DsaAttentionProblem& p : formats()) {
    SCOPED_TRACE(problem_string(p));
    const DsaLayer layer(
        p, 1);  // a choice that hangs on the last bit would differ: the host's test has this layer too
    DsaRun host(layer, test_context());
    DeviceLayer device(layer);
    const auto compare = [&](ForwardMode mode, const std::vector<DsaShareOfTest>& shares,
                             const DsaStepOptions& options = {}) {
      const Strided got = device.step(mode, shares, options);
      EXPECT_LT(calc_diff(got.view, host.step(mode, shares, options)), 1e-3) << to_string(mode);
    };
    compare(ForwardMode::extend, {{0, 0, 30}, {2, 0, 10}, {1, 0, 24}});
    compare(ForwardMode::extend, {{0, 30, 9}, {1, 24, 2}}, {.padding_rows = 1, .score_bytes = 3000});
    compare(ForwardMode::decode, {{0, 39, 1}, {1, 26, 1}, {2, 10, 1}});
    compare(ForwardMode::target_verify, {{0, 40, 4}, {2, 11, 4}});
    compare(ForwardMode::draft_extend, {{0, 44, 1}, {1, 27, 3}}, {.packed = true, .padding_rows = 2});
  }
}

// Within a class of products (extend, or the others) a row has the same bytes in every mode and batch.
TEST(DsaAttentionOnDevice, ModesAndBatchesChangeNothing) {
  for (const DsaAttentionProblem& p : formats()) {
    SCOPED_TRACE(problem_string(p));
    const Seed seed;
    const DsaLayer layer(p, seed.value);
    DeviceLayer device(layer);
    const Strided whole = device.step(ForwardMode::extend, {{0, 0, 40}});
    expect_same_bytes(device.step(ForwardMode::extend, {{1, 0, 26}, {0, 33, 7}}).view.rows(26, 33),
                      whole.view.rows(33, 40));
    const Strided native = device.step(ForwardMode::target_verify, {{0, 40, 4}, {1, 26, 4}});
    expect_same_bytes(device.step(ForwardMode::draft_extend, {{0, 40, 4}, {1, 26, 4}}, {.packed = true}).view,
                      native.view);
    // Scores of a request at a time.
    expect_same_bytes(
        device.step(ForwardMode::target_verify, {{0, 40, 4}, {1, 26, 4}}, {.score_bytes = 4}).view,
        native.view);
    expect_same_bytes(device
                          .step(ForwardMode::draft_extend, {{0, 40, 4}, {1, 26, 4}},
                                {.packed = true, .score_bytes = 3 * 64 * 4})
                          .view,
                      native.view);
    expect_same_bytes(device.step(ForwardMode::decode, {{0, 43, 1}}).view, native.view.rows(3, 4));
    const Strided padded = device.step(ForwardMode::decode, {{2, -1, 1}, {1, 29, 1}, {0, 43, 1}});
    expect_same_bytes(padded.view.rows(1, 2), native.view.rows(7, 8));
    expect_same_bytes(padded.view.rows(2, 3), native.view.rows(3, 4));
    const Strided idle = device.step(ForwardMode::idle, {}, {.padding_rows = 1});
    for (std::int64_t i = 0; i < p.hidden; ++i) {
      EXPECT_EQ(at(padded.view, 0, i), p.accumulate ? 1.0f : 0.0f);
      EXPECT_EQ(at(idle.view, 0, i), p.accumulate ? 1.0f : 0.0f);
    }
  }
}

// Short contexts, where nothing is scored; and a layer that only stores.
TEST(DsaAttentionOnDevice, AttendsToAllAndOnlyStores) {
  for (const DsaAttentionProblem& p : formats()) {
    SCOPED_TRACE(problem_string(p));
    const DsaLayer layer(p, 6);
    DsaRun host(layer, test_context());
    DeviceLayer all(layer), only(layer);
    const auto compare = [&](ForwardMode mode, const std::vector<DsaShareOfTest>& shares) {
      const Strided got = all.step(mode, shares);
      EXPECT_LT(calc_diff(got.view, host.step(mode, shares)), 1e-3) << to_string(mode);
    };
    compare(ForwardMode::extend, {{0, 0, 17}, {2, 0, 1}, {1, 0, 20}});
    compare(ForwardMode::decode, {{0, 17, 1}, {1, 20, 1}, {2, 1, 1}});
    compare(ForwardMode::target_verify, {{0, 18, 3}, {1, 21, 3}});
    only.step(ForwardMode::extend, {{0, 0, 70}}, {.store_only = true});
    all.step(ForwardMode::extend, {{0, 0, 70}});
    // Both continue alike.
    expect_same_bytes(only.step(ForwardMode::decode, {{0, 70, 1}}).view,
                      all.step(ForwardMode::decode, {{0, 70, 1}}).view);
  }
}

// Recorded with nothing but padding, replayed with real lengths.
TEST(DsaAttentionOnDevice, FollowsTheLengthsInAGraph) {
  const DsaLayer layer(small_layer(), 2);
  DeviceLayer device(layer), eager(layer);
  for (DeviceLayer* each : {&device, &eager}) (void)each->step(ForwardMode::extend, {{0, 0, 40}, {1, 0, 20}});
  const DsaStepOptions bound{.max_seqlen_k = 100};
  const DsaInput recorded(layer, ForwardMode::target_verify, {{0, -1, 2}, {1, -2, 2}}, bound);
  const DeviceLayer::Step step(device, recorded);
  const cuda::Stream stream(device_context(kChain));
  const Context context = device_context(kChain).on_stream(stream.handle());
  step.run(context);  // compiled before the capture
  stream.synchronize();
  const cuda::Graph graph = cuda::Graph::capture(context, [&] { step.run(context); });
  for (const auto& [first, second] : {std::pair(40, 20), {42, 22}, {43, -1}, {41, 24}}) {
    const std::vector<DsaShareOfTest> shares{{0, first, 2}, {1, second, 2}};
    step.update(DsaInput(layer, ForwardMode::target_verify, shares, bound));
    graph.launch(context);
    stream.synchronize();
    expect_same_bytes(step.out().download().view, eager.step(ForwardMode::target_verify, shares, bound).view);
  }
}

// Sizes that Hopper's kernels take.
const std::string kBest = "dsa_attention=cuda:chain";
DsaAttentionProblem hopper_layer(std::int64_t index_topk) {
  return {.hidden = 256,
          .heads = 16,
          .q_lora = 256,
          .lora = 512,
          .nope = 128,
          .rope = 64,
          .value = 128,
          .index_heads = 16,
          .index_dim = 128,
          .index_topk = index_topk,
          .joined = 1};
}

struct Mode {
  ForwardMode mode;
  std::vector<DsaShareOfTest> shares;
  DsaStepOptions options{};
};

// The bytes of pages of 64, whatever kernels are chosen.
TEST(DsaAttentionOnDevice, PagesOfAnySizeChangeNothing) {
  const Mode modes[] = {{ForwardMode::extend, {{0, 0, 9}, {1, 0, 20}}},  // nothing is scored
                        {ForwardMode::extend, {{0, 126, 5}, {1, 20, 1}}, {.padding_rows = 1}},
                        {ForwardMode::target_verify, {{0, 131, 2}, {1, 21, 2}}},
                        {ForwardMode::draft_extend, {{0, 131, 2}, {1, 21, 1}}, {.packed = true}},
                        {ForwardMode::decode, {{0, 133, 1}, {2, -1, 1}, {1, 23, 1}}}};
  for (const std::string& chain : {kChain, kBest}) {
    DsaAttentionProblem p = chain == kBest ? hopper_layer(24) : small_layer();
    std::vector<Strided> expected;
    for (const std::int64_t page : {64, 16, 32, 128}) {
      p.page = page;
      SCOPED_TRACE(problem_string(p));
      const DsaLayer layer(p, 7, 192, 150);
      DeviceLayer device(layer, chain);
      for (std::size_t i = 0; i < std::size(modes); ++i) {
        Strided got = device.step(modes[i].mode, modes[i].shares, modes[i].options);
        if (page == 64) {
          expected.push_back(std::move(got));
        } else {
          expect_same_bytes(got.view, expected[i].view);
        }
      }
    }
  }
}

// Around pages, the lists' length and the parts of lists, with the kernels that are chosen on Hopper. A row
// that attends to all is near the host. One that chooses may miss it by a weighty entry: products before the
// scores round in another way, and entries at the choice's edge change places. So it is held against the same
// chain with plain kernels from the scores on.
TEST(DsaAttentionOnDevice, BestKernelsAgreeWithTheHostAtAnyPrefix) {
  const Seed seed;
  const DsaAttentionProblem p = hopper_layer(2048);
  const DsaLayer layer(p, seed.value, 4224, 4200);
  DsaRun host(layer, test_context());
  DeviceLayer device(layer, kBest);
  DeviceLayer plain(
      layer, kBest + ",mqa_logits=cuda:simt,paged_mqa_logits=cuda:simt,top_k=cuda:simt,sparse_mla=cuda:simt");
  const auto step = [&](ForwardMode mode, const std::vector<DsaShareOfTest>& shares,
                        const DsaStepOptions& options = {}) {
    Strided got = device.step(mode, shares, options);
    const Strided chosen = plain.step(mode, shares, options);
    const Tensor all = host.step(mode, shares, options);
    std::int64_t row = 0;
    for (const DsaShareOfTest& share : shares) {
      for (std::int64_t i = 0; i < share.extend; ++i, ++row) {
        if (share.prefix < 0) continue;
        const bool chooses = share.prefix + i + 1 > p.index_topk;
        const TensorView want = (chooses ? chosen.view : all.view()).rows(row, row + 1);
        EXPECT_LT(calc_diff(got.view.rows(row, row + 1), want), chooses ? 2e-2 : 5e-3)
            << to_string(mode) << " " << share.prefix << " + " << i;
      }
    }
    return got;
  };
  step(ForwardMode::decode, {{0, 126, 1}, {1, 127, 1}, {2, 191, 1}});
  step(ForwardMode::decode, {{0, 2046, 1}, {1, 2047, 1}, {2, 2048, 1}});
  step(ForwardMode::decode, {{0, 4095, 1}, {1, 0, 1}, {2, 63, 1}});
  step(ForwardMode::extend, {{0, 2044, 6}, {1, 60, 5}});
  const Strided verified = step(ForwardMode::target_verify, {{0, 2046, 4}, {1, 4094, 4}});
  const Strided packed =
      step(ForwardMode::draft_extend, {{0, 2046, 4}, {1, 4094, 4}}, {.packed = true, .padding_rows = 1});
  expect_same_bytes(packed.view.rows(0, 8), verified.view);
  const Strided decoded = step(ForwardMode::decode, {{1, 4097, 1}, {2, -1, 1}, {0, 2049, 1}});
  expect_same_bytes(decoded.view.rows(0, 1), verified.view.rows(7, 8));
  expect_same_bytes(decoded.view.rows(2, 3), verified.view.rows(3, 4));
}

// The metadata and the layer in one graph, recorded with nothing but padding. As many steps as a server takes
// in a minute: each has the bytes of direct launches.
TEST(DsaAttentionOnDevice, IsReplayedWithOtherLengths) {
  constexpr std::int64_t kKnown = 180;
  for (const std::int64_t next_n : {1, 2, 4}) {
    const Seed seed;
    Random random(seed.value);
    const DsaLayer layer(hopper_layer(64), seed.value, 192, kKnown);
    const DeviceLayer device(layer, kBest);
    const ForwardMode mode = next_n == 1 ? ForwardMode::decode : ForwardMode::target_verify;
    const DsaInput input(layer, mode, {{2, -1, next_n}, {0, -1, next_n}, {1, -1, next_n}},
                         {.max_seqlen_k = kKnown + next_n});
    const DeviceLayer::Step replayed(device, input), direct(device, input);
    const OnDevice ids(input.ids), lens(input.prefix);
    const cuda::Stream stream(device_context(kBest));
    const Context context = device_context(kBest).on_stream(stream.handle());
    direct.run_with_metadata(lens, ids, context);  // compiled before the capture
    stream.synchronize();
    const cuda::Graph graph =
        cuda::Graph::capture(context, [&] { replayed.run_with_metadata(lens, ids, context); });
    Tensor prefix(DType::i32, {3});
    for (int round = 0; round < 1000 && !HasFailure(); ++round) {
      for (std::int64_t b = 0; b < 3; ++b)
        prefix.set(b, static_cast<double>(random.integer(0, 9) == 0 ? -1 : random.integer(0, kKnown)));
      lens.upload(prefix);
      graph.launch(context);
      direct.run_with_metadata(lens, ids, context);
      stream.synchronize();
      expect_same_bytes(replayed.out().download().view, direct.out().download().view);
    }
  }
}

// What a warm-up compiles for a layer's problem is all that the layer launches, in every mode.
TEST(DsaAttentionOnDevice, AWarmUpLeavesNothingToCompile) {
  const WarmCache cache(kBest);
  const DsaLayer layer(hopper_layer(64), 1, 192, 180);
  const DeviceLayer device(layer, kBest);
  const Mode modes[] = {{ForwardMode::extend, {{0, 100, 9}, {1, 0, 3}}},
                        {ForwardMode::decode, {{0, 150, 1}, {1, 20, 1}}},
                        {ForwardMode::target_verify, {{0, 100, 2}, {1, 20, 2}}},
                        {ForwardMode::target_verify, {{0, 100, 3}, {1, 20, 3}}},
                        {ForwardMode::decode, {{0, 30, 1}}},  // nothing is scored
                        {ForwardMode::extend, {{0, 0, 30}}, {.store_only = true}},
                        {ForwardMode::draft_extend, {{0, 100, 3}, {1, 20, 1}}, {.packed = true}}};
  for (const Mode& each : modes) {
    SCOPED_TRACE(to_string(each.mode));
    const DsaInput input(layer, each.mode, each.shares, each.options);
    const DeviceLayer::Step step(device, input);
    step.result(cache.warmed_up(step.problem()));
  }
}

}  // namespace
}  // namespace fathom
