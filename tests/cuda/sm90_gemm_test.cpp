// Which Hopper kernel takes which product, what it is told, and why one declines: all without a GPU.
#include "ops/sm90_gemm.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <set>

#include "cuda/device_context.hpp"
#include "fake_driver.hpp"
#include "fathom/engine/problems.hpp"
#include "fathom/ops/bf16_gemm_nt.hpp"
#include "fathom/ops/fp8_gemm_nt.hpp"
#include "fathom/ops/fp8_linear.hpp"
#include "fathom/ops/head_gate.hpp"
#include "jit/nvrtc.hpp"
#include "jit/scratch.hpp"
#include "layout/gemm_few.cuh"
#include "ops/kernels.hpp"
#include "ops/op_test.hpp"

namespace fathom {
namespace {

Sm90GemmPlan plan_of(bool decode, std::int64_t m, std::int64_t n, std::int64_t k, bool fp8 = true) {
  return plan_sm90_gemm({.fp8 = fp8, .decode = decode, .m = m, .n = n, .k = k}, usual_device("sm_90a"));
}

TEST(Sm90Gemm, SegmentsAreFixedByTheWeights) {
  EXPECT_EQ(sm90_gemm_segments(true, true, 2112, 7168), 2);
  EXPECT_EQ(sm90_gemm_segments(true, true, 4096, 7168), 2);
  EXPECT_EQ(sm90_gemm_segments(true, true, 576, 7168), 8);
  EXPECT_EQ(sm90_gemm_segments(true, true, 24576, 1536), 1);
  EXPECT_EQ(sm90_gemm_segments(true, true, 7168, 16384), 1);
  EXPECT_EQ(sm90_gemm_segments(true, true, 64, 7168), 16);
  EXPECT_EQ(sm90_gemm_segments(false, true, 64, 7168), 8);
  EXPECT_EQ(sm90_gemm_segments(false, true, 64, 64), 8) << "the kernel for few weights has as many for any k";
  EXPECT_EQ(sm90_gemm_segments(false, true, 256, 7168), 8);
  EXPECT_EQ(sm90_gemm_segments(true, true, 64, 128), 1) << "k is too short to be cut";
  EXPECT_EQ(sm90_gemm_segments(true, false, 576, 7168), 1) << "prefill never cuts k";
}

TEST(Sm90Gemm, Plans) {
  struct Row {
    bool decode;
    std::int64_t m, n, k;
    bool decode_kernel;
    int tile_m, tile_n, cluster_m, cluster_n, segments;
  };
  const Row rows[] = {
      {true, 1, 2112, 7168, true, 8, 64, 1, 1, 2},
      {true, 16, 576, 7168, true, 16, 64, 1, 1, 8},
      {true, 64, 4096, 7168, true, 64, 64, 1, 1, 2},
      {true, 64, 24576, 1536, false, 64, 96, 1, 1, 1},
      {true, 128, 32768, 512, false, 64, 128, 1, 1, 1},
      {true, 128, 24576, 1536, false, 64, 128, 1, 1, 1},
      {true, 16, 24576, 1536, false, 64, 96, 1, 1, 1},
      {true, 47, 7168, 16384, true, 64, 64, 1, 1, 1},
      {true, 48, 7168, 16384, false, 64, 64, 1, 1, 1},
      {true, 8, 32768, 512, true, 8, 64, 1, 1, 1},
      {true, 9, 32768, 512, false, 64, 128, 1, 1, 1},
      {true, 16, 7168, 512, true, 16, 64, 1, 1, 1},
      {true, 128, 7168, 2048, false, 64, 128, 1, 1, 1},
      {true, 512, 576, 7168, true, 128, 64, 1, 1, 8},
      {false, 1, 2112, 7168, true, 8, 64, 1, 1, 1},
      {false, 512, 2112, 7168, false, 128, 64, 1, 1, 1},
      {false, 4096, 2112, 7168, false, 128, 192, 1, 1, 1},
      {false, 512, 4096, 7168, false, 128, 128, 1, 1, 1},
      {false, 512, 7168, 16384, false, 128, 256, 2, 1, 1},
      {false, 2048, 576, 7168, false, 64, 144, 1, 1, 1},
      {false, 4096, 4096, 7168, false, 128, 256, 2, 1, 1},
      {false, 4096, 7168, 16384, false, 128, 256, 2, 1, 1},
      {false, 4096, 7168, 2048, false, 256, 128, 1, 1, 1},
      {false, 512, 24576, 1536, false, 256, 128, 1, 1, 1},
      {false, 2048, 24576, 1536, false, 256, 128, 1, 1, 1},
      {false, 4096, 576, 7168, false, 128, 144, 1, 1, 1},
  };
  for (const Row& row : rows) {
    const Sm90GemmPlan plan = plan_of(row.decode, row.m, row.n, row.k);
    SCOPED_TRACE(testing::Message() << row.m << " " << row.n << " " << row.k << " " << row.decode);
    EXPECT_EQ(plan.kernel.kind == Sm90GemmKind::decode, row.decode_kernel);
    EXPECT_EQ(plan.kernel.tile_m, row.tile_m);
    EXPECT_EQ(plan.kernel.tile_n, row.tile_n);
    EXPECT_EQ(plan.kernel.cluster_m, row.cluster_m);
    EXPECT_EQ(plan.kernel.cluster_n, row.cluster_n);
    EXPECT_EQ(plan.segments, row.segments);
  }
}

// Of a prefill kernel: where few rows want them, they are long beside the result, and L2 is not exceeded many
// times.
TEST(Sm90Gemm, WeightsLeaveL2WhereFewRowsReadThem) {
  EXPECT_TRUE(plan_of(true, 64, 24576, 1536).weights_leave);
  EXPECT_TRUE(plan_of(true, 128, 32768, 512).weights_leave);
  EXPECT_TRUE(plan_of(false, 512, 7168, 16384).weights_leave);
  EXPECT_FALSE(plan_of(false, 513, 7168, 16384).weights_leave) << "many rows";
  EXPECT_FALSE(plan_of(false, 192, 32768, 512).weights_leave) << "a long result";
  EXPECT_TRUE(plan_of(true, 128, 24576, 1536, false).weights_leave);
  EXPECT_FALSE(plan_of(false, 512, 7168, 16384, false).weights_leave) << "many rows of bf16";
  EXPECT_FALSE(plan_of(true, 128, 129280, 7168, false).weights_leave) << "many weights";
}

TEST(Sm90Gemm, LastRoundsAreSharedWhereThatIsFaster) {
  struct Row {
    std::int64_t m, n, k;
    int tile_m, tile_n, cluster_n, cut, round, givers;
  };
  const Row rows[] = {
      {2048, 7168, 16384, 128, 192, 1, 88, 3, 80}, {2688, 7168, 16384, 256, 128, 2, 88, 3, 44},
      {2048, 2112, 7168, 128, 192, 1, 32, 0, 44},  {4096, 2112, 7168, 128, 192, 1, 40, 1, 88},
      {1216, 5056, 3072, 256, 128, 2, 20, 0, 34},  {576, 5696, 4096, 128, 128, 1, 28, 0, 93},
      {830, 5370, 1520, 128, 192, 1, 8, 0, 64},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(testing::Message() << row.m << " " << row.n << " " << row.k);
    const Sm90GemmPlan plan = plan_of(false, row.m, row.n, row.k);
    EXPECT_TRUE(plan.kernel.shares);
    EXPECT_EQ(plan.kernel.tile_m, row.tile_m);
    EXPECT_EQ(plan.kernel.tile_n, row.tile_n);
    EXPECT_EQ(plan.kernel.cluster_n, row.cluster_n);
    EXPECT_EQ(plan.share.cut, row.cut);
    EXPECT_EQ(plan.share.round, row.round);
    EXPECT_EQ(plan.share.givers, row.givers);
    // Memory is there for so many.
    cuda::DeviceInfo large = usual_device("sm_90a");
    large.num_sms = GemmPrefillConfig::most_sharing + 1;
    const Sm90GemmShape shape{.m = row.m, .n = row.n, .k = row.k};
    EXPECT_FALSE(plan_sm90_gemm(shape, large).kernel.shares);
    EXPECT_FALSE(plan_of(false, row.m, row.n, row.k, false).kernel.shares) << "bf16";
  }
  for (const std::int64_t n : {2112, 7168, 24576}) {
    EXPECT_FALSE(plan_of(false, 4096, n, 1024).kernel.shares) << "a short k of " << n;
    EXPECT_FALSE(plan_of(false, 128, n, 7168).kernel.shares) << "one round of " << n;
  }
  EXPECT_FALSE(plan_of(false, 3072, 8448, 16384).kernel.shares) << "a full last round";
}

// Every block of k of every tile is somebody's: whole rounds, then the givers' parts and their last tiles,
// and the rest by takers.
TEST(Sm90Gemm, SharedRoundsCoverAllTiles) {
  int shared = 0;
  for (std::int64_t m = 129; m < 6000; m += 173) {
    for (const std::int64_t n : {576, 2112, 4096, 5000, 7168}) {
      for (const std::int64_t k : {1530, 4096, 7168, 16384}) {
        const Sm90GemmPlan plan = plan_of(false, m, n, k);
        if (!plan.kernel.shares) continue;
        SCOPED_TRACE(testing::Message() << m << " " << n << " " << k);
        ++shared;
        const std::int64_t clusters = 132 / (plan.kernel.cluster_m * plan.kernel.cluster_n);
        const std::int64_t tiles = ceil_div(m, plan.kernel.tile_m * plan.kernel.cluster_m) *
                                   ceil_div(n, plan.kernel.tile_n * plan.kernel.cluster_n);
        EXPECT_EQ((plan.share.round + 1) * clusters + plan.share.givers, tiles);
        EXPECT_GE(plan.share.round, 0);
        EXPECT_GT(plan.share.givers, 0);
        EXPECT_LT(plan.share.givers, clusters);
        EXPECT_EQ(plan.share.cut % GemmPrefillConfig::scale_blocks, 0);
        EXPECT_GT(plan.share.cut, 0);
        EXPECT_LT(plan.share.cut, ceil_div(k, 128));
      }
    }
  }
  EXPECT_GT(shared, 50);
}

// Whatever the sizes: shared memory suffices, the class alone decides the segments, and a name says all of a
// kernel.
TEST(Sm90Gemm, EveryPlanFitsAndIsNamed) {
  std::map<std::string, std::string> texts;
  for (const bool fp8 : {true, false}) {
    for (const bool decode : {true, false}) {
      for (const std::int64_t n : {1, 8, 63, 64, 200, 576, 2112, 4096, 7168, 32768, 129280}) {
        for (const std::int64_t k : {1, 64, 130, 512, 7168, 16384, 65536}) {
          const int segments = sm90_gemm_segments(fp8, decode, n, k);
          for (const std::int64_t m : {1, 8, 9, 16, 17, 33, 64, 65, 128, 300, 1024, 5000, 100000}) {
            const Sm90GemmPlan plan = plan_of(decode, m, n, k, fp8);
            EXPECT_EQ(plan.segments, segments);
            EXPECT_TRUE(plan.segments == 1 || plan.kernel.kind != Sm90GemmKind::prefill);
            const jit::Source source = sm90_gemm_source(plan.kernel);
            const auto [place, fresh] = texts.emplace(source.name, source.text);
            EXPECT_TRUE(fresh || place->second == source.text) << source.name;
            EXPECT_LE(sm90_gemm_shared_bytes(plan.kernel), usual_device("sm_90a").shared_bytes_per_block);
          }
        }
      }
    }
  }
  EXPECT_LT(texts.size(), 60u) << "distinct kernels";
}

// What packs and warm-ups compile: every kernel that any number of rows up to a long chunk would launch.
TEST(Sm90Gemm, ProblemsOfTheModelFindEveryKernel) {
  std::set<std::string> listed;
  std::set<std::pair<std::int64_t, std::int64_t>> shapes;
  for (const std::string& text : deepseek_v32_problems()) {
    if (!text.starts_with("fp8_gemm_nt:")) continue;
    const auto problem = parse_problem<Fp8GemmNtProblem>(text);
    shapes.emplace(problem.n, problem.k);
    listed.insert(sm90_gemm_source(plan_of(problem.decode, problem.m, problem.n, problem.k).kernel).name);
  }
  EXPECT_GT(shapes.size(), 7u);
  const auto less = [](const Sm90GemmKernel& a, const Sm90GemmKernel& b) {
    return std::memcmp(&a, &b, sizeof a) < 0;
  };
  std::set<Sm90GemmKernel, decltype(less)> planned(less);
  for (const auto& [n, k] : shapes) {
    for (const bool decode : {false, true}) {
      for (std::int64_t m = 1; m <= 8192; ++m) planned.insert(plan_of(decode, m, n, k).kernel);
    }
  }
  for (const Sm90GemmKernel& kernel : planned) {
    const std::string name = sm90_gemm_source(kernel).name;
    EXPECT_TRUE(listed.contains(name)) << name;
  }
}

// n and k say in which order a row is summed; m only which kernel does it.
TEST(Sm90Gemm, FewWeightsHaveAKernelOfTheirOwn) {
  struct Row {
    std::int64_t m, n, k;
    Sm90GemmKind kind;
    bool pairs;
  };
  constexpr Row kRows[] = {{3, 64, 8, Sm90GemmKind::few, false},
                           {500, 64, 7168, Sm90GemmKind::few, false},
                           {3, 64, 20000, Sm90GemmKind::few, false},
                           {3, 64, 7164, Sm90GemmKind::decode, false},  // rows that end within 16 bytes
                           {16, 65, 7168, Sm90GemmKind::few, true},
                           {32, 256, 7168, Sm90GemmKind::few, true},
                           {33, 256, 7168, Sm90GemmKind::decode, true},
                           {500, 256, 7168, Sm90GemmKind::decode, true},
                           {3, 256, 7232, Sm90GemmKind::decode, false},  // more pairs than warps
                           {3, 256, 1024, Sm90GemmKind::decode, false},  // fewer segments
                           {3, 257, 7168, Sm90GemmKind::decode, false}};
  for (const Row& row : kRows) {
    SCOPED_TRACE(testing::Message() << row.m << " " << row.n << " " << row.k);
    const Sm90GemmKernel kernel = plan_of(true, row.m, row.n, row.k, false).kernel;
    EXPECT_EQ(kernel.kind, row.kind);
    EXPECT_EQ(kernel.pairs != 0, row.pairs);
    EXPECT_TRUE(!row.pairs || kernel.stage_blocks == GemmFewConfig::pair) << "a stage is a pair";
  }
  EXPECT_EQ(plan_of(true, 3, 64, 7168).kernel.kind, Sm90GemmKind::decode) << "FP8";
}

TEST(Sm90Gemm, ProblemsOfTheModelFindEveryKernelForFewWeights) {
  std::set<std::string> listed;
  for (const std::string& text : deepseek_v32_problems()) {
    if (text.starts_with("head_gate:")) {
      const auto p = parse_problem<HeadGateProblem>(text);
      listed.insert(sm90_gemm_source(plan_of(p.decode, p.tokens, p.heads, p.hidden, false).kernel).name);
    } else if (text.starts_with("bf16_gemm_nt:")) {
      const auto p = parse_problem<Bf16GemmNtProblem>(text);
      listed.insert(sm90_gemm_source(plan_of(p.decode, p.m, p.n, p.k, false).kernel).name);
    }
  }
  std::set<std::string> planned;
  for (const std::int64_t n : {64, 256}) {
    for (std::int64_t m = 1; m <= 1024; ++m)
      planned.insert(sm90_gemm_source(plan_of(true, m, n, 7168, false).kernel).name);
  }
  for (const std::string& name : planned) EXPECT_TRUE(listed.contains(name)) << name;
}

class Sm90OnFake : public ::testing::Test {
 protected:
  TensorView view(DType dtype, std::initializer_list<std::int64_t> shape,
                  std::uintptr_t address = 256) const {
    return TensorView::contiguous(reinterpret_cast<void*>(address), dtype, shape, {DeviceKind::cuda, 0});
  }
  Fp8GemmNtArgs args(std::int64_t m, std::int64_t n, std::int64_t k) const {
    return {.a = view(DType::f8e4m3, {m, k}),
            .a_scale = view(DType::f32, {m, (k + 127) / 128}),
            .b = view(DType::f8e4m3, {n, k}),
            .b_scale = view(DType::f32, {(n + 127) / 128, (k + 127) / 128}),
            .out = view(DType::bf16, {m, n})};
  }
  Context context(ContextOptions options = {}) {
    if (!options.strict) options.force_implementation = "sm90:wgmma";
    options.cache_dir = scratch_ / "cache";
    return cuda::make_context(fake_.table(), 0, options);
  }

  jit::Scratch scratch_;
  cuda::FakeDriver fake_;
};

TEST_F(Sm90OnFake, LaunchesWhatThePlanSays) {
  jit::nvrtc();
  const Context on_fake = context();
  Fp8GemmNtArgs decode = args(3, 2112, 7168);
  decode.decode = true;
  fp8_gemm_nt(decode, on_fake);
  EXPECT_EQ(fake_.calls("cuLaunchKernelEx"), 1);
  EXPECT_EQ(fake_.calls("cuTensorMapEncodeTiled"), 2);
  EXPECT_EQ(fake_.launched.grid_x, 33u * 2);
  EXPECT_EQ(fake_.launched.block_x, 160u);
  ASSERT_EQ(fake_.launch_attributes.size(), 1u);
  EXPECT_EQ(fake_.launch_attributes[0].value.cluster.x, 2u);
  fp8_gemm_nt(args(4096, 7168, 16384), on_fake);
  EXPECT_EQ(fake_.calls("cuLaunchKernelEx"), 2);
  EXPECT_EQ(fake_.calls("cuTensorMapEncodeTiled"), 4) << "of operands: warps store 128 x 256 tiles";
  EXPECT_EQ(fake_.launched.grid_x, 128u);
  EXPECT_EQ(fake_.launched.block_x, 384u);
  ASSERT_EQ(fake_.launch_attributes.size(), 1u);
  EXPECT_EQ(fake_.launch_attributes[0].value.cluster.x, 2u);
  fp8_gemm_nt(args(4096, 24576, 1536), on_fake);
  EXPECT_EQ(fake_.launched.grid_x, 128u) << "no more than 24 rounds need";
  EXPECT_EQ(fake_.calls("cuTensorMapEncodeTiled"), 7) << "of operands and result";
  fp8_gemm_nt(args(3, 2112, 7168), on_fake);
  EXPECT_EQ(fake_.launched.grid_x, 33u);
  EXPECT_EQ(fake_.launch_attributes.size(), 0u) << "one segment is no cluster";
}

TEST_F(Sm90OnFake, CompileOnlyLaunchesNothing) {
  jit::nvrtc();
  Context on_fake = context();
  on_fake.set_compile_mode(CompileMode::compile_only);
  fp8_gemm_nt(args(3, 2112, 7168), on_fake);
  EXPECT_EQ(fake_.calls("cuLaunchKernelEx"), 0);
  EXPECT_EQ(fake_.calls("cuModuleLoadData"), 1);
}

TEST_F(Sm90OnFake, IsTheFirstChoice) {
  jit::nvrtc();
  ContextOptions options;
  options.strict = true;
  options.cache_dir = scratch_ / "cache";
  fp8_gemm_nt(args(3, 64, 128), cuda::make_context(fake_.table(), 0, options));
  EXPECT_EQ(fake_.calls("cuTensorMapEncodeTiled"), 2) << "the general kernel has no use for tensor maps";
}

TEST_F(Sm90OnFake, ScalesOfEveryRowLeaveKWhole) {
  jit::nvrtc();
  const Context on_fake = context();
  Fp8GemmNtArgs by_row = args(3, 576, 7168);
  by_row.decode = true;
  for (const TensorView& scale : {view(DType::f32, {576, 56}), view(DType::i32, {576, 14})}) {
    by_row.b_scale = scale;
    fp8_gemm_nt(by_row, on_fake);
    EXPECT_EQ(fake_.launched.grid_x, 9u);
    EXPECT_EQ(fake_.launch_attributes.size(), 0u);
  }
  EXPECT_EQ(fake_.calls("cuModuleLoadData"), 1) << "one kernel for both";
}

TEST_F(Sm90OnFake, AnInvariantContextHasOneClass) {
  jit::nvrtc();
  Fp8GemmNtArgs decode = args(3, 2112, 7168);
  decode.decode = true;
  fp8_gemm_nt(decode, context({.invariant = true}));
  EXPECT_EQ(fake_.launched.grid_x, 33u) << "one segment";
}

TEST_F(Sm90OnFake, StartsEarlyOnlyIfAsked) {
  jit::nvrtc();
  const auto pdl = [&] {
    return std::ranges::any_of(fake_.launch_attributes, [](const cuda::LaunchAttribute& attribute) {
      return attribute.id == cuda::kLaunchProgrammaticStreamSerialization;
    });
  };
  for (const std::int64_t m : {3, 300}) {
    fp8_gemm_nt(args(m, 2112, 7168), context());
    EXPECT_FALSE(pdl());
    fp8_gemm_nt(args(m, 2112, 7168), context({.dependent_launch = true}));
    EXPECT_TRUE(pdl());
  }
}

TEST_F(Sm90OnFake, FewRowsAreQuantisedAndMultipliedInOneLaunchIfAsked) {
  jit::nvrtc();
  const auto launches = [&](std::int64_t m, bool decode, const Context& on_fake) {
    const int before = fake_.calls("cuLaunchKernelEx");
    fp8_linear({.x = view(DType::bf16, {m, 7168}),
                .w = view(DType::f8e4m3, {2112, 7168}),
                .w_scale = view(DType::f32, {17, 56}),
                .out = view(DType::bf16, {m, 2112}),
                .q = view(DType::f8e4m3, {m, 7168}),
                .q_scale = view(DType::f32, {m, 56}),
                .decode = decode},
               on_fake);
    return fake_.calls("cuLaunchKernelEx") - before;
  };
  ContextOptions options;
  options.cache_dir = scratch_ / "cache";
  options.force_implementation = "fp8_linear=sm90:fused";
  const Context forced = cuda::make_context(fake_.table(), 0, options);
  for (const bool decode : {true, false}) {
    for (const std::int64_t m : {1, 16}) {
      EXPECT_EQ(launches(m, decode, forced), 1);
      EXPECT_EQ(fake_.launched.grid_x, decode ? 33u * sm90_gemm_segments(true, true, 2112, 7168) : 33u);
      EXPECT_EQ(fake_.launched.block_x, 288u);
    }
  }
  EXPECT_ERROR(NoImplementation, "sm90:fused needs at most 16 rows of x, got 17", launches(17, true, forced));
  EXPECT_EQ(launches(1, true, context({.strict = true})), 2) << "two steps, where these were faster";
  for (const auto& [m, k, count] : {std::tuple{8, 2048, 1}, {9, 2048, 2}, {16, 1536, 1}, {8, 2176, 2}}) {
    const int before = fake_.calls("cuLaunchKernelEx");
    fp8_linear({.x = view(DType::bf16, {m, k}),
                .w = view(DType::f8e4m3, {2112, k}),
                .w_scale = view(DType::f32, {17, k / 128}),
                .out = view(DType::bf16, {m, 2112}),
                .q = view(DType::f8e4m3, {m, k}),
                .q_scale = view(DType::f32, {m, k / 128}),
                .decode = true},
               context());
    EXPECT_EQ(fake_.calls("cuLaunchKernelEx") - before, count) << m << " rows of " << k;
  }
}

TEST_F(Sm90OnFake, TheHeadGateIsOneLaunch) {
  jit::nvrtc();
  const Context on_fake = context({.strict = true});
  for (const std::int64_t tokens : {1, 128, 4096}) {
    head_gate({.x = view(DType::bf16, {tokens, 7168}),
               .w = view(DType::bf16, {64, 7168}),
               .q_scale = view(DType::f32, {tokens, 64}),
               .out = view(DType::f32, {tokens, 64}),
               .decode = tokens < 4096},
              on_fake);
    EXPECT_EQ(fake_.launch_attributes.size(), tokens < 4096 ? 1u : 0u) << "a cluster of segments, or none";
  }
  EXPECT_EQ(fake_.calls("cuLaunchKernelEx"), 3);
}

TEST_F(Sm90OnFake, FewWeightsAreMultipliedWithoutTheCopyEngine) {
  jit::nvrtc();
  const auto launch = [&](std::int64_t m, std::int64_t n, std::int64_t k, const Context& on_fake) {
    bf16_gemm_nt({.a = view(DType::bf16, {m, k}),
                  .b = view(DType::bf16, {n, k}),
                  .out = view(DType::bf16, {m, n}),
                  .decode = true},
                 on_fake);
  };
  const Context on_fake = context();
  for (const auto& [m, n, grid_x, grid_y] : {std::tuple{1, 64, 4u, 1u},
                                             {16, 33, 3u, 2u},
                                             {64, 64, 2u, 4u},
                                             {128, 64, 2u, 4u},
                                             {5000, 8, 1u, 157u},
                                             {1, 256, 11u, 1u},
                                             {32, 256, 11u, 1u}}) {
    SCOPED_TRACE(testing::Message() << m << " x " << n);
    launch(m, n, 7168, on_fake);
    EXPECT_EQ(fake_.launched.grid_x, 8 * grid_x);
    EXPECT_EQ(fake_.launched.grid_y, grid_y);
    ASSERT_EQ(fake_.launch_attributes.size(), 1u);
    EXPECT_EQ(fake_.launch_attributes[0].value.cluster.x, 8u);
  }
  EXPECT_EQ(fake_.calls("cuTensorMapEncodeTiled"), 0);
  launch(3, 64, 7168, context({.dependent_launch = true}));
  EXPECT_EQ(fake_.launch_attributes.size(), 2u);
  launch(3, 64, 7168, context({.invariant = true}));
  EXPECT_EQ(fake_.launch_attributes.size(), 0u) << "one class, which is not cut";
}

TEST_F(Sm90OnFake, TakesAnEmptyK) {
  jit::nvrtc();
  fp8_gemm_nt(args(3, 64, 0), context({.strict = true}));
  EXPECT_EQ(fake_.calls("cuLaunchKernelEx"), 1);
  EXPECT_EQ(fake_.calls("cuTensorMapEncodeTiled"), 0);
}

TEST_F(Sm90OnFake, SaysWhyItDeclines) {
  const Context forced = context();
  EXPECT_ERROR(NoImplementation,
               "forced implementation sm90:wgmma needs rows of a and b at multiples of 16 bytes",
               fp8_gemm_nt(args(3, 64, 100), forced));
  Fp8GemmNtArgs shifted = args(3, 64, 128);
  shifted.b = view(DType::f8e4m3, {64, 128}, 264);
  EXPECT_ERROR(NoImplementation,
               "forced implementation sm90:wgmma needs rows of a and b at multiples of 16 bytes",
               fp8_gemm_nt(shifted, forced));
  const Bf16GemmNtArgs add{.a = view(DType::bf16, {3, 64}),
                           .b = view(DType::bf16, {64, 64}),
                           .out = view(DType::bf16, {3, 64}),
                           .accumulate = true};
  EXPECT_ERROR(NoImplementation, "forced implementation sm90:wgmma needs an f32 out to accumulate, got bf16",
               bf16_gemm_nt(add, forced));
  fake_.devices[0].sm_major = 8;
  EXPECT_ERROR(NoImplementation, "forced implementation sm90:wgmma needs compute capability 9.0, got 8.0",
               fp8_gemm_nt(args(3, 64, 128), context()));
}

}  // namespace
}  // namespace fathom
