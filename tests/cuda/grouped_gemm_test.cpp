// Grouped products on CUDA without a GPU: what is launched, what is planned, and what declines.
#include <gtest/gtest.h>

#include <map>
#include <optional>
#include <set>

#include "fathom/cuda/device.hpp"
#include "fathom/engine/problems.hpp"
#include "fathom/ops/m_grouped_bf16_gemm_nt.hpp"
#include "fathom/ops/m_grouped_fp8_gemm_nt.hpp"
#include "jit/nvrtc.hpp"
#include "on_fake.hpp"
#include "ops/kernels.hpp"
#include "ops/op_test.hpp"
#include "ops/sm90_grouped.hpp"
#include "ops/tile_queues.hpp"

namespace fathom {
namespace {

class GroupedOnFake : public OnFake {
 protected:
  Context context(const std::string& implementation) {
    return context_with({.force_implementation = implementation});
  }
};

TEST_F(GroupedOnFake, TheGeneralOneTakesWeightsFromAnywhere) {
  jit::nvrtc();
  std::vector<TensorView> weights;
  for (std::uintptr_t g = 0; g < 150; ++g)
    weights.push_back(view(DType::bf16, {33, 40}, 4096 + g * g * 4096));
  EXPECT_FALSE(equally_spaced(weights));
  const Context on_fake = context("cuda:simt");
  m_grouped_bf16_gemm_nt({.a = view(DType::bf16, {150, 10, 40}),
                          .b = weights,
                          .rows = {.masked_m = view(DType::i32, {150})},
                          .out = view(DType::f32, {150, 10, 33})},
                         on_fake);
  EXPECT_EQ(fake_.calls("cuLaunchKernelEx"), 3) << "64 groups a launch";
  EXPECT_EQ(fake_.launched.grid_x, 150u);
}

TEST(SimtGrouped, ArgumentsAreThoseOfTheTensors) {
  const TensorView a = TensorView::contiguous(reinterpret_cast<void*>(1024), DType::f8e4m3, {3, 70, 300});
  TensorView scale = TensorView::contiguous(reinterpret_cast<void*>(1024), DType::f32, {3, 3, 72});
  std::swap(scale.shape[1], scale.shape[2]);
  std::swap(scale.stride[1], scale.stride[2]);
  scale.data = reinterpret_cast<void*>(16);
  const TensorView stacked =
      TensorView::contiguous(reinterpret_cast<void*>(256), DType::f8e4m3, {3, 130, 300});
  const auto b = split_groups(stacked);
  EXPECT_TRUE(equally_spaced(b));
  const auto b_scale =
      split_groups(TensorView::contiguous(reinterpret_cast<void*>(1024), DType::f32, {3, 2, 3}));
  const TensorView counts = TensorView::contiguous(reinterpret_cast<void*>(64), DType::i32, {3});
  const SimtGroupedArgs args = simt_grouped_args(
      GroupLayout::masked,
      {.a = a,
       .a_scale = scale,
       .b = b,
       .b_scale = b_scale,
       .rows = {.masked_m = counts},
       .out = TensorView::contiguous(reinterpret_cast<void*>(1024), DType::bf16, {3, 70, 130})});
  EXPECT_EQ(args.layout, SimtGroupedArgs::masked);
  EXPECT_EQ(args.gemm.m, 70);
  EXPECT_EQ(args.gemm.n, 130);
  EXPECT_EQ(args.a_block, 21000);
  EXPECT_EQ(args.out_block, 9100);
  EXPECT_EQ(args.a_scale_block, 216);
  EXPECT_EQ(args.gemm.a_scale.row_stride, 1);
  EXPECT_EQ(args.gemm.a_scale.group_stride, 72);
  EXPECT_EQ(args.index, counts.as<const int>());
}

TEST(EquallySpaced, IsAStack) {
  const TensorView stacked = TensorView::contiguous(reinterpret_cast<void*>(256), DType::bf16, {4, 3, 8});
  auto groups = split_groups(stacked);
  EXPECT_TRUE(equally_spaced(groups));
  std::swap(groups[1], groups[2]);
  EXPECT_FALSE(equally_spaced(groups));
  std::swap(groups[1], groups[2]);
  groups[3].stride[0] = 16;
  EXPECT_FALSE(equally_spaced(groups));
}

Sm90GroupedKernel grouped_plan(bool masked, std::int64_t groups, std::int64_t rows, std::int64_t n,
                               std::int64_t k, std::int64_t expected, bool fp8 = true) {
  return plan_sm90_grouped(
      {.fp8 = fp8, .masked = masked, .groups = groups, .rows = rows, .n = n, .k = k, .expected_m = expected},
      usual_device("sm_90a"));
}

TEST(Sm90Grouped, FewRowsSwapTheOperands) {
  EXPECT_EQ(grouped_plan(true, 256, 64, 4096, 7168, 1).tile_m, 8);
  EXPECT_EQ(grouped_plan(true, 32, 4096, 4096, 7168, 20).tile_m, 32);
  EXPECT_EQ(grouped_plan(true, 32, 4096, 4096, 7168, 20).swapped, 1);
  EXPECT_EQ(grouped_plan(false, 32, 64, 4096, 7168, 0).tile_m, 8) << "two rows a group on average";
  EXPECT_EQ(grouped_plan(true, 32, 4096, 4096, 7168, 192).swapped, 0);
  EXPECT_EQ(grouped_plan(true, 32, 4096, 4096, 7168, 0).swapped, 0) << "as if all blocks were full";
}

// Tiles of 64 weights share out better, which many rounds do not need, and load rows twice as often.
TEST(Sm90Grouped, TilesOfFewRowsAreNarrow) {
  const auto width = [](std::int64_t groups, std::int64_t expected, bool fp8 = true) {
    return grouped_plan(true, groups, 4096, 4096, 7168, expected, fp8).tile_n;
  };
  for (const std::int64_t expected : {1, 10, 20}) EXPECT_EQ(width(32, expected), 64) << expected;
  EXPECT_EQ(width(256, 2), 128);
  EXPECT_EQ(width(32, 40), 128);
  EXPECT_EQ(width(6, 40), 64) << "192 tiles of 128 in two rounds, or 384 in three of half the time";
  EXPECT_EQ(width(32, 1, false), 128) << "bf16 has twice the bytes";
}

TEST(Sm90Grouped, ManyRowsHaveLargeTiles) {
  const Sm90GroupedKernel wide = grouped_plan(false, 4, 27136, 4096, 7168, 0);
  EXPECT_EQ(wide.tile_m, 128) << "what groups are padded to";
  EXPECT_EQ(wide.tile_n, 256);
  EXPECT_EQ(wide.stages, 4);
  EXPECT_FALSE(sm90_grouped_config(wide).stores_whole());
  const Sm90GroupedKernel short_k = grouped_plan(false, 4, 34176, 7168, 2048, 0);
  EXPECT_EQ(short_k.tile_n, 256);
  EXPECT_TRUE(sm90_grouped_config(short_k).stores_whole()) << "results leave more often";
  const Sm90GroupedKernel tall = grouped_plan(true, 32, 4096, 4096, 7168, 193);
  EXPECT_EQ(tall.tile_m, 256) << "most groups have three or four slabs of 64 rows";
  EXPECT_EQ(tall.cluster_n, 2);
  EXPECT_EQ(sm90_grouped_config(tall).cluster_m, 1) << "two tiles of rows need not be of one group";
  EXPECT_EQ(grouped_plan(true, 32, 4096, 128, 7168, 193).cluster_n, 1) << "no neighbour";
}

TEST(Sm90Grouped, FewRoundsHideWeightsAndTheirOwnEnd) {
  const Sm90GroupedKernel uneven = grouped_plan(true, 4, 4096, 7168, 2048, 251);
  EXPECT_EQ(uneven.tile_n, 192);
  EXPECT_EQ(uneven.stages, 5) << "weights of every group come from memory";
  EXPECT_EQ(grouped_plan(true, 1, 4096, 4096, 7168, 1299).stages, 4) << "few of one group do";
  const Sm90GroupedKernel two = grouped_plan(true, 1, 4096, 7168, 2048, 1019);
  EXPECT_EQ(two.tile_n, 256);
  EXPECT_EQ(two.stages, 4) << "no tile comes after a result that the copy engine sends";
}

// Up to five rows with many rounds of tiles: as many rows as one warpgroup has, and large boxes of weights.
TEST(Sm90Grouped, FewRowsOfManyGroupsHaveLargeTiles) {
  for (const std::int64_t expected : {1, 2, 5}) {
    const Sm90GroupedKernel plan = grouped_plan(false, 256, 256 * expected, 7168, 2048, expected);
    EXPECT_EQ(plan.swapped, 0) << expected;
    EXPECT_EQ(plan.tile_m, 64) << expected;
    EXPECT_EQ(plan.tile_n, 256) << expected;
    EXPECT_EQ(grouped_plan(true, 256, 4096, 7168, 2048, expected).swapped, 1)
        << "rows of nobody come from memory";
    EXPECT_EQ(grouped_plan(false, 32, 32 * expected, 7168, 2048, expected).swapped, 1) << "few rounds";
    EXPECT_EQ(grouped_plan(false, 256, 256 * expected, 7168, 2048, expected, false).swapped, 1) << "bf16";
  }
  for (const std::int64_t expected : {8, 20, 32})
    EXPECT_EQ(grouped_plan(false, 256, 256 * expected, 7168, 2048, expected).swapped, 1) << expected;
}

// Gates and ups are activated where they are multiplied if the tiles are the same, or if there are many
// rounds of them.
TEST(Sm90Grouped, ActivationsGoWithTheProductWhereThatIsFaster) {
  const cuda::DeviceInfo device = usual_device("sm_90a");
  const auto better = [&](std::int64_t groups, std::int64_t expected, bool masked = false) {
    return better_activated({.masked = masked,
                             .groups = groups,
                             .rows = masked ? 4096 : groups * expected,
                             .n = 4096,
                             .k = 7168,
                             .expected_m = expected},
                            device);
  };
  EXPECT_FALSE(better(9, 1)) << "144 tiles for 132 multiprocessors";
  for (const std::int64_t expected : {1, 9, 32, 64, 128, 256, 1024})
    EXPECT_TRUE(better(257, expected)) << expected;
  EXPECT_FALSE(better(257, 192)) << "tiles of 256 rows, of which three slabs of 64 count";
  EXPECT_FALSE(better(257, 9, true)) << "rows of nobody come from memory";
  EXPECT_TRUE(better(257, 128, true));
  for (const std::int64_t expected : {10, 100}) {
    const Sm90GroupedKernel plan =
        plan_sm90_activated({.groups = 257, .rows = 257 * expected, .expected_m = expected});
    const GemmPrefillConfig config = sm90_grouped_config(plan);
    EXPECT_EQ(config.block_m, expected == 10 ? 64 : 128);
    EXPECT_EQ(config.weight_box(), 128) << "gates, then ups";
    EXPECT_LE(config.shared_bytes(), device.shared_bytes_per_block);
    EXPECT_TRUE(sm90_grouped_source(plan).name.starts_with("grouped_gemm.sm90_activated_f8e4m3_m"));
  }
}

// Whatever the sizes: shared memory suffices and a name says all of a kernel.
TEST(Sm90Grouped, EveryPlanFitsAndIsNamed) {
  std::map<std::string, std::string> texts;
  for (const bool fp8 : {true, false}) {
    for (const bool masked : {true, false}) {
      for (const std::int64_t groups : {1, 6, 32, 256}) {
        for (const std::int64_t n : {1, 63, 576, 4096, 7168}) {
          for (const std::int64_t k : {16, 2048, 7168}) {
            for (const std::int64_t expected : {0, 1, 6, 11, 22, 43, 64, 128, 192, 1024, 20000}) {
              const Sm90GroupedKernel plan = grouped_plan(masked, groups, 4096, n, k, expected, fp8);
              const jit::Source source = sm90_grouped_source(plan);
              const auto [place, fresh] = texts.emplace(source.name, source.text);
              EXPECT_TRUE(fresh || place->second == source.text) << source.name;
              EXPECT_LE(sm90_grouped_config(plan).shared_bytes(),
                        usual_device("sm_90a").shared_bytes_per_block);
            }
          }
        }
      }
    }
  }
  EXPECT_LT(texts.size(), 30u) << "distinct kernels";
}

TEST(Sm90Grouped, ProblemsOfTheModelFindEveryKernel) {
  std::set<std::string> listed;
  for (const std::string& text : deepseek_v32_problems()) {
    if (!text.starts_with("m_grouped_")) continue;
    const std::string one[] = {text};
    for (const jit::Source& source : kernel_sources(one, usual_device("sm_90a"))) listed.insert(source.name);
  }
  for (const auto& [n, k] : {std::pair<std::int64_t, std::int64_t>{4096, 7168}, {7168, 2048}}) {
    for (std::int64_t rows = 1; rows <= 4096; ++rows) {
      for (const bool masked : {true, false}) {
        const std::string name =
            sm90_grouped_source(grouped_plan(masked, 256, masked ? 4096 : 256 * rows, n, k, rows)).name;
        EXPECT_TRUE(listed.contains(name)) << name << " for " << rows;
      }
      const Sm90GroupedKernel few =
          plan_sm90_grouped({.groups = 256, .rows = rows, .n = n, .k = k}, usual_device("sm_90a"));
      EXPECT_TRUE(listed.contains(sm90_grouped_source(few).name)) << rows << " of all groups";
    }
  }
}

class Sm90GroupedOnFake : public GroupedOnFake {
 protected:
  MGroupedFp8GemmNtArgs args(std::int64_t groups, std::int64_t rows, std::int64_t n, std::int64_t k) {
    weights_ = split_groups(view(DType::f8e4m3, {groups, n, k}));
    scales_ = split_groups(view(DType::f32, {groups, (n + 127) / 128, (k + 127) / 128}));
    return {.a = view(DType::f8e4m3, {groups, rows, k}),
            .a_scale = view(DType::f32, {groups, rows, (k + 127) / 128}),
            .b = weights_,
            .b_scale = scales_,
            .rows = {.masked_m = view(DType::i32, {groups}), .expected_m = 20},
            .out = view(DType::bf16, {groups, rows, n})};
  }
  std::vector<TensorView> weights_;
  std::vector<TensorView> scales_;
};

TEST_F(Sm90GroupedOnFake, LaunchesWhatThePlanSays) {
  jit::nvrtc();
  const Context on_fake = context("sm90:wgmma");
  m_grouped_fp8_gemm_nt(args(32, 4096, 4096, 7168), on_fake);
  EXPECT_EQ(fake_.calls("cuLaunchKernelEx"), 1);
  EXPECT_EQ(fake_.calls("cuTensorMapEncodeTiled"), 2);
  EXPECT_EQ(fake_.launched.grid_x, 132u);
  EXPECT_EQ(fake_.launched.block_x, 256u);
  EXPECT_EQ(fake_.launch_attributes.size(), 0u);
  ContextOptions early;
  early.dependent_launch = true;
  early.cache_dir = scratch_ / "cache";
  m_grouped_fp8_gemm_nt(args(32, 4096, 4096, 7168), cuda::make_context(fake_.table(), 0, early));
  ASSERT_EQ(fake_.launch_attributes.size(), 1u);
  EXPECT_EQ(fake_.launch_attributes[0].id, cuda::kLaunchProgrammaticStreamSerialization);
  m_grouped_fp8_gemm_nt(args(1, 20, 60, 256), on_fake);
  EXPECT_EQ(fake_.launched.grid_x, 1u) << "no more blocks than tiles";
  m_grouped_fp8_gemm_nt(args(3, 0, 100, 256), on_fake);
  m_grouped_fp8_gemm_nt(args(3, 5, 0, 256), on_fake);
  EXPECT_EQ(fake_.calls("cuLaunchKernelEx"), 3) << "nothing to do";
}

TEST_F(Sm90GroupedOnFake, TilesThatHaveHalvesHaveAMapOfThem) {
  jit::nvrtc();
  MGroupedFp8GemmNtArgs many = args(4, 4096, 7168, 2048);
  many.rows.expected_m = 251;
  m_grouped_fp8_gemm_nt(many, context("sm90:wgmma"));
  EXPECT_EQ(fake_.calls("cuTensorMapEncodeTiled"), 3) << "rows, weights, halves of them";
  many = args(32, 4096, 4096, 7168);
  many.rows.expected_m = 193;
  m_grouped_fp8_gemm_nt(many, context("sm90:wgmma"));
  EXPECT_EQ(fake_.calls("cuTensorMapEncodeTiled"), 5) << "tiles of pairs of blocks stay whole";
}

TEST_F(Sm90GroupedOnFake, NarrowTilesAreMoreBlocks) {
  jit::nvrtc();
  m_grouped_fp8_gemm_nt(args(1, 20, 128, 256), context("sm90:wgmma"));
  EXPECT_EQ(fake_.launched.grid_x, 2u);
  EXPECT_EQ(fake_.launched.block_x, 256u);
}

TEST_F(Sm90GroupedOnFake, LaunchesThatMayRunTogetherDrawFromDifferentQueues) {
  const Context on_fake = context("sm90:wgmma");
  const Context on_stream = on_fake.on_stream(&fake_);
  std::set<int> queues;
  for (int i = 0; i < kTileQueues; ++i) queues.insert(tile_queue(i % 2 == 0 ? on_fake : on_stream));
  EXPECT_EQ(std::ssize(queues), kTileQueues);
  EXPECT_EQ(*queues.begin(), 0);
  EXPECT_EQ(*queues.rbegin(), kTileQueues - 1);
  EXPECT_TRUE(queues.contains(tile_queue(on_stream))) << "they come round";
  const auto record = [&](int launches) {
    return cuda::Graph::capture(on_stream, [&] {
      for (int i = 0; i < launches; ++i) EXPECT_TRUE(queues.insert(tile_queue(on_stream)).second) << i;
    });
  };
  std::optional<cuda::Graph> first = record(100);
  const cuda::Graph second = record(kRecordedTileQueues - 100);
  EXPECT_EQ(std::ssize(queues), kTileQueues + kRecordedTileQueues);
  EXPECT_EQ(*queues.rbegin(), kTileQueues + kRecordedTileQueues - 1);
  const auto third = [&] { cuda::Graph::capture(on_stream, [&] { queues.insert(tile_queue(on_stream)); }); };
  third();
  EXPECT_EQ(*queues.begin(), -1) << "used up";
  EXPECT_TRUE(queues.contains(tile_queue(on_stream)));

  // A graph gives back what it had, and only that.
  queues.clear();
  first.reset();
  first.emplace(record(100));
  third();
  EXPECT_EQ(std::ssize(queues), 101);
  EXPECT_EQ(*queues.begin(), -1);
}

TEST_F(Sm90GroupedOnFake, GivesAQueueBackIfItsGraphCannotKeepIt) {
  const Context on_stream = context("sm90:wgmma").on_stream(&fake_);
  std::set<int> queues;
  for (const char* call : {"cuStreamGetCaptureInfo_v3", "cuUserObjectCreate", "cuGraphRetainUserObject"}) {
    const int handles = fake_.live_handles();
    fake_.fail(call);
    EXPECT_ERROR(CudaError, call, cuda::Graph::capture(on_stream, [&] { tile_queue(on_stream); }));
    EXPECT_EQ(fake_.live_handles(), handles);
  }
  const cuda::Graph all = cuda::Graph::capture(on_stream, [&] {
    for (int i = 0; i < kRecordedTileQueues; ++i) queues.insert(tile_queue(on_stream));
  });
  EXPECT_EQ(*queues.begin(), kTileQueues);
  EXPECT_EQ(std::ssize(queues), kRecordedTileQueues);
}

TEST_F(Sm90GroupedOnFake, SaysWhyItDeclines) {
  const Context on_fake = context("sm90:wgmma");
  MGroupedFp8GemmNtArgs other = args(3, 4, 64, 128);
  std::swap(weights_[1], weights_[2]);
  EXPECT_ERROR(NoImplementation, "b and b_scale of all groups equally far apart",
               m_grouped_fp8_gemm_nt(other, on_fake));
  EXPECT_ERROR(NoImplementation, "needs rows of a and b at multiples of 16 bytes",
               m_grouped_fp8_gemm_nt(args(3, 4, 64, 100), on_fake));
  EXPECT_ERROR(NoImplementation, "needs at most 1024 groups, got 1025",
               m_grouped_fp8_gemm_nt(args(1025, 4, 64, 128), on_fake));
  fake_.devices[0].sm_major = 8;
  EXPECT_ERROR(NoImplementation, "needs compute capability 9.0, got 8.0",
               m_grouped_fp8_gemm_nt(args(3, 4, 64, 128), context("sm90:wgmma")));
}

}  // namespace
}  // namespace fathom
