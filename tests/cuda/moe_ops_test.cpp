// The ops around the products of experts on CUDA without a GPU: what they launch, what they list, what they
// refuse.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "cuda/device_context.hpp"
#include "fake_driver.hpp"
#include "fathom/engine/problems.hpp"
#include "fathom/ops/moe_combine.hpp"
#include "fathom/ops/moe_forward.hpp"
#include "fathom/ops/moe_permute.hpp"
#include "fathom/ops/moe_route.hpp"
#include "fathom/ops/quantize_groups.hpp"
#include "fathom/ops/silu_mul_quant.hpp"
#include "jit/nvrtc.hpp"
#include "jit/scratch.hpp"
#include "ops/kernels.hpp"
#include "ops/moe_forward/moe_forward_impl.hpp"
#include "ops/op_test.hpp"
#include "ops/sm90_grouped.hpp"

namespace fathom {
namespace {

class MoeOnFake : public testing::Test {
 protected:
  // Addresses that nobody may read: the fake driver runs nothing.
  static TensorView view(DType dtype, std::initializer_list<std::int64_t> shape) {
    return TensorView::contiguous(reinterpret_cast<void*>(std::uintptr_t{256}), dtype, shape,
                                  {DeviceKind::cuda, 0});
  }
  int launches(const std::function<void()>& body) {
    jit::nvrtc();
    const int before = static_cast<int>(fake_.calls("cuLaunchKernelEx"));
    body();
    return static_cast<int>(fake_.calls("cuLaunchKernelEx")) - before;
  }

  jit::Scratch scratch_;
  cuda::FakeDriver fake_;
  Context context_ = [this] {
    ContextOptions options;
    options.cache_dir = scratch_ / "cache";
    return cuda::make_context(fake_.table(), 0, options);
  }();
};

TEST_F(MoeOnFake, TheActivationIsOneLaunchAndReadsNoCount) {
  EXPECT_EQ(launches([&] {
              silu_mul_quant({.gate_up = view(DType::bf16, {512, 3, 256}),
                              .q = view(DType::f8e4m3, {512, 3, 128}),
                              .scale = view(DType::f32, {512, 3, 1}),
                              .masked_m = view(DType::i32, {512})},
                             context_);
            }),
            1);
  EXPECT_EQ(launches([&] {
              silu_mul_quant({.gate_up = view(DType::bf16, {0, 256}),
                              .q = view(DType::f8e4m3, {0, 128}),
                              .scale = view(DType::f32, {0, 1})},
                             context_);
            }),
            0);
}

TEST_F(MoeOnFake, GridsFitTheDeviceAndTheWork) {
  EXPECT_EQ(launches([&] {
              silu_mul_quant({.gate_up = view(DType::bf16, {4096, 8192}),
                              .q = view(DType::f8e4m3, {4096, 4096}),
                              .scale = view(DType::f32, {4096, 32})},
                             context_);
            }),
            1);
  EXPECT_EQ(fake_.launched.grid_x, 6u * 132);
  EXPECT_EQ(launches([&] {
              moe_permute({.ids = view(DType::i32, {1, 8}),
                           .x = view(DType::f8e4m3, {1, 7168}),
                           .groups = 256,
                           .out = view(DType::f8e4m3, {8, 7168}),
                           .slot_to_row = view(DType::i32, {1, 8}),
                           .offsets = view(DType::i32, {257})},
                          context_);
            }),
            1);
  EXPECT_EQ(fake_.launched.grid_x, 8u) << "a block for every row";
}

TEST_F(MoeOnFake, PermutationIsOneLaunchForFewSlotsAndTwoForMany) {
  const auto permute = [&](std::int64_t tokens, std::int64_t groups) {
    moe_permute({.ids = view(DType::i32, {tokens, 8}),
                 .x = view(DType::f8e4m3, {tokens, 7168}),
                 .groups = groups,
                 .out = view(DType::f8e4m3, {8 * tokens, 7168}),
                 .slot_to_row = view(DType::i32, {tokens, 8}),
                 .offsets = view(DType::i32, {groups + 1})},
                context_);
  };
  EXPECT_EQ(launches([&] { permute(0, 256); }), 1) << "offsets are written all the same";
  EXPECT_EQ(launches([&] { permute(256, 256); }), 1);
  EXPECT_EQ(launches([&] { permute(257, 256); }), 2);
  EXPECT_ERROR(NoImplementation, "needs at most 5461 groups, got 5462", permute(1, 5462));
}

TEST_F(MoeOnFake, NothingIsLaunchedWithoutTokens) {
  EXPECT_EQ(launches([&] {
              moe_combine({.y = view(DType::bf16, {8, 64}),
                           .slot_to_row = view(DType::i32, {0, 8}),
                           .weights = view(DType::f32, {0, 8}),
                           .out = view(DType::bf16, {0, 64})},
                          context_);
              moe_route({.logits = view(DType::f32, {0, 16}),
                         .ids = view(DType::i32, {0, 2}),
                         .weights = view(DType::f32, {0, 2})},
                        context_);
            }),
            0);
  EXPECT_ERROR(NoImplementation, "needs at most 4096 experts, got 5000",
               moe_route({.logits = view(DType::f32, {1, 5000}),
                          .ids = view(DType::i32, {1, 2}),
                          .weights = view(DType::f32, {1, 2})},
                         context_));
}

TEST_F(MoeOnFake, TheWholeIsSixLaunches) {
  const std::vector<TensorView> gate_up{view(DType::f8e4m3, {256, 128})};
  const std::vector<TensorView> down{view(DType::f8e4m3, {128, 128})};
  const std::vector<TensorView> gate_up_scale{view(DType::f32, {2, 1})};
  const std::vector<TensorView> down_scale{view(DType::f32, {1, 1})};
  const MoeForwardProblem problem{
      .tokens = 4, .top_k = 1, .experts = 1, .hidden = 128, .intermediate = 128, .shared = 0};
  const MoeForwardArgs args{.x = view(DType::bf16, {4, 128}),
                            .ids = view(DType::i32, {4, 1}),
                            .weights = view(DType::f32, {4, 1}),
                            .gate_up = gate_up,
                            .gate_up_scale = gate_up_scale,
                            .down = down,
                            .down_scale = down_scale,
                            .out = view(DType::bf16, {4, 128}),
                            .workspace = view(DType::u8, {moe_forward_workspace(problem)})};
  EXPECT_EQ(launches([&] { moe_forward(args, context_); }), 6);
}

// Options beside those of the lists that kernels_test compiles.
TEST(MoeKernels, EveryOptionCompilesWithoutSpills) {
  const std::vector<std::string> problems{
      "silu_mul_quant:experts=4,gate_up=f32,scale_format=ue8m0,scale_layout=packed_ue8m0,swizzled=1,clamp=1",
      "silu_mul_quant:dim=2048,gate_up=bf16,swizzled=1",
      "silu_mul_quant:experts=4,dim=2048,gate_up=bf16,scale_format=ue8m0,swizzled=1,clamp=1",
      "quantize_groups:k=7168,rule=indexer",
      "quantize_groups:k=7168,rule=kv_cache,scale_format=ue8m0",
      "moe_route:scoring=softmax",
  };
  for (const std::string arch : {"sm_80", "sm_90a"}) {
    for (const jit::Source& source : kernel_sources(problems, usual_device(arch))) {
      EXPECT_EQ(jit::spilled_bytes(jit::compile(source, arch, jit::nvrtc())), 0)
          << source.name << " for " << arch;
    }
  }
}

// A pack made for moe_forward has what each of its ops launches.
TEST(MoeKernels, OfTheWholeAreThoseOfItsParts) {
  const std::string whole[] = {problem_string(MoeForwardProblem{.tokens = 4})};
  std::set<std::string> names;
  for (const jit::Source& source : kernel_sources(whole, usual_device("sm_90a"))) names.insert(source.name);
  for (const char* part : {"quantize_groups.simt_bf16_per_token_group_f32", "moe_permute.simt_few16",
                           "silu_mul_quant.simt_bf16_f32", "moe_combine.simt_bf16_bf16"}) {
    EXPECT_TRUE(names.contains(part)) << part;
  }
  EXPECT_TRUE(
      std::ranges::any_of(names, [](const std::string& name) { return name.find("grouped") != name.npos; }));
}

// As does the pack of the model, from few tokens to a long chunk.
TEST(MoeKernels, OfTheModelAreThoseOfItsMixtures) {
  std::vector<std::string> problems;
  for (const std::string& text : deepseek_v32_problems()) {
    if (text.starts_with("moe_") || text.starts_with("silu_")) problems.push_back(text);
  }
  std::set<std::string> names;
  for (const jit::Source& source : kernel_sources(problems, usual_device("sm_90a")))
    names.insert(source.name);
  for (const char* part : {"moe_permute.simt_16", "moe_permute.simt_place", "moe_permute.simt_copy16",
                           "silu_mul_quant.simt_bf16_f32", "silu_mul_quant.simt_bf16_f32_masked"}) {
    EXPECT_TRUE(names.contains(part)) << part;
  }
}

// The products are planned for as many rows of an expert as the call expects.
TEST(MoeKernels, OfTheWholeAreThoseItLaunches) {
  const cuda::DeviceInfo device = usual_device("sm_90a");
  for (const std::int64_t tokens : {1, 100, 170, 340, 3000}) {  // 170: 5.3 rows on average, 6 expected
    const MoeForwardProblem problem{.tokens = tokens};
    const MoeForwardParts parts(problem);
    const std::string whole[] = {problem_string(problem)};
    std::set<std::string> names;
    for (const jit::Source& source : kernel_sources(whole, device)) names.insert(source.name);
    const Sm90GroupedKernel plan = plan_sm90_grouped({.groups = problem.experts,
                                                      .rows = parts.rows,
                                                      .n = 2 * problem.intermediate,
                                                      .k = problem.hidden,
                                                      .expected_m = parts.expected_m},
                                                     device);
    const std::string name = sm90_grouped_source(plan).name;
    EXPECT_TRUE(names.contains(name)) << name << " for " << tokens;
  }
}

}  // namespace
}  // namespace fathom
