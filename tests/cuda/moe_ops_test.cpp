// The ops around the products of experts on CUDA without a GPU: what they launch, what they list, what they
// refuse.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "fathom/engine/problems.hpp"
#include "fathom/ops/m_grouped_bf16_gemm_nt.hpp"
#include "fathom/ops/m_grouped_fp8_gemm_nt.hpp"
#include "fathom/ops/moe_combine.hpp"
#include "fathom/ops/moe_forward.hpp"
#include "fathom/ops/moe_permute.hpp"
#include "fathom/ops/moe_route.hpp"
#include "fathom/ops/quantize_groups.hpp"
#include "fathom/ops/silu_mul_quant.hpp"
#include "jit/no_spills.hpp"
#include "on_fake.hpp"
#include "ops/kernels.hpp"
#include "ops/moe_forward/moe_forward_impl.hpp"
#include "ops/op_test.hpp"
#include "ops/sm90_grouped.hpp"

namespace fathom {
namespace {

class MoeOnFake : public OnFake {
 protected:
  int launches(const std::function<void()>& body) {
    jit::nvrtc();
    const int before = static_cast<int>(fake_.calls("cuLaunchKernelEx"));
    body();
    return static_cast<int>(fake_.calls("cuLaunchKernelEx")) - before;
  }

  Context context_ = context_with({});
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

TEST_F(MoeOnFake, TheWholeIsSixLaunchesOrFive) {
  std::vector<TensorView> gate_up = split_groups(view(DType::f8e4m3, {2, 256, 128}));
  const std::vector<TensorView> down = split_groups(view(DType::f8e4m3, {2, 128, 128}));
  const std::vector<TensorView> gate_up_scale = split_groups(view(DType::f32, {2, 2, 1}));
  const std::vector<TensorView> down_scale = split_groups(view(DType::f32, {2, 1, 1}));
  const MoeForwardProblem problem{
      .tokens = 4, .top_k = 1, .experts = 2, .hidden = 128, .intermediate = 128, .shared = 0};
  MoeForwardArgs args{.x = view(DType::bf16, {4, 128}),
                      .ids = view(DType::i32, {4, 1}),
                      .weights = view(DType::f32, {4, 1}),
                      .gate_up = gate_up,
                      .gate_up_scale = gate_up_scale,
                      .down = down,
                      .down_scale = down_scale,
                      .out = view(DType::bf16, {4, 128}),
                      .workspace = view(DType::u8, {2 * moe_forward_workspace(problem)})};
  EXPECT_EQ(launches([&] { moe_forward(args, context_); }), 6);
  ContextOptions by_name;
  by_name.force_implementation = "moe_forward=sm90:activated";
  const Context fused = context_with(by_name);
  EXPECT_EQ(launches([&] { moe_forward(args, fused); }), 5);
  std::swap(gate_up[0], gate_up[1]);
  EXPECT_EQ(launches([&] { moe_forward(args, context_); }), 6);
  EXPECT_ERROR(NoImplementation, "equally far", moe_forward(args, fused));
  std::swap(gate_up[0], gate_up[1]);
  args.inner = DType::f32;
  EXPECT_ERROR(NoImplementation, "needs inner of bf16, got f32", moe_forward(args, fused));
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
  for (const std::string_view arch : {"sm_80", "sm_90a"})
    jit::expect_no_spills(kernel_sources(problems, usual_device(arch)), arch);
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

// Whatever the layout and the number of rows, nothing is left to compile: rows with ids have plans apart.
TEST(MoeKernels, OfTheModelAreThoseOfEveryLayout) {
  const cuda::DeviceInfo device = usual_device("sm_90a");
  std::set<std::string> listed;
  for (const jit::Source& source : kernel_sources(deepseek_v32_problems(), device))
    listed.insert(source.name);
  const auto expect_listed = [&](const auto& problem) {
    const std::string one[] = {problem_string(problem)};
    for (const jit::Source& source : kernel_sources(one, device))
      EXPECT_TRUE(listed.contains(source.name)) << source.name << " of " << one[0];
  };
  for (const GroupLayout layout : {GroupLayout::contiguous, GroupLayout::offsets, GroupLayout::masked}) {
    for (const std::int64_t tokens :
         {1, 3, 9, 20, 50, 100, 170, 257, 340, 700, 1500, 3000, 6000, 12000, 20000}) {
      expect_listed(MoeForwardProblem{.tokens = tokens, .layout = layout});
      expect_listed(MoeForwardProblem{
          .tokens = tokens, .top_k = 9, .experts = 257, .shared = 0, .layout = layout, .common = true});
    }
    for (const std::int64_t groups : {256, 32, 8}) {  // of one device, of 8 and of 32
      for (std::int64_t each = 1; each <= 8192; each += each / 3 + 1) {
        const std::int64_t rows = layout == GroupLayout::masked ? each + 100 : groups * each;
        for (const auto& [n, k] : {std::pair(4096, 7168), {7168, 2048}}) {
          for (const std::int64_t expected : {std::int64_t{0}, each}) {
            expect_listed(MGroupedFp8GemmNtProblem{
                .groups = groups, .rows = rows, .n = n, .k = k, .layout = layout, .expected_m = expected});
            expect_listed(MGroupedBf16GemmNtProblem{
                .groups = groups, .rows = rows, .n = n, .k = k, .layout = layout, .expected_m = expected});
          }
        }
      }
    }
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
    const std::string activated =
        "grouped_gemm.sm90_activated_f8e4m3_m" + std::string(tokens < 1000 ? "64n256s5c1" : "128n256s4c1");
    EXPECT_EQ(names.contains(activated), tokens > 1) << tokens;
  }
}

}  // namespace
}  // namespace fathom
