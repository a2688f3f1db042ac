// Which scores Hopper's kernel takes, how much of shared memory it fills, and that every form of it and of
// the general kernels compiles without a spill: all without a GPU.
#include "ops/sm90_mqa.hpp"

#include <gtest/gtest.h>

#include "fathom/ops/mqa_logits.hpp"
#include "fathom/ops/paged_mqa_logits.hpp"
#include "jit/no_spills.hpp"
#include "ops/kernels.hpp"
#include "ops/op_test.hpp"

namespace fathom {
namespace {

std::string reason(const Sm90MqaShape& shape, std::string_view arch = "sm_90a") {
  const Verdict verdict = sm90_mqa_verdict(shape, usual_device(arch));
  return verdict ? verdict->reason : "";
}

TEST(Sm90Mqa, TakesWhatFitsAndSaysWhyNot) {
  for (const std::int64_t heads : {1, 8, 16, 20, 32, 64, 100, 128}) {
    for (const std::int64_t next_n : {1, 2, 3, 5, 8}) {
      EXPECT_EQ(reason({.heads = heads, .requests = 4096, .next_n = next_n}), "") << heads << " " << next_n;
    }
    EXPECT_EQ(reason({.ragged = true, .heads = heads, .requests = 4096, .next_n = sm90_mqa_tokens(heads)}),
              "");
  }
  EXPECT_EQ(reason({}, "sm_80"), "needs compute capability 9.0, got 8.0");
  EXPECT_EQ(reason({.f8 = false}), "needs q of f8e4m3, got f32");
  EXPECT_EQ(reason({.head_dim = 64, .page = 16}), "");
  EXPECT_EQ(reason({.head_dim = 96}), "needs a head_dim of 32, 64 or 128, got 96");
  EXPECT_EQ(reason({.heads = 129}), "needs up to 128 heads, got 129");
  EXPECT_EQ(reason({.aligned = false}),
            "needs q, weights and keys at multiples of 16 bytes with such strides, got others");
  EXPECT_EQ(reason({.requests = 4097}), "needs up to 4096 requests, got 4097");
  EXPECT_EQ(reason({.ragged = true, .requests = 4097, .next_n = 4}),
            "needs up to 4096 groups of 4 tokens, got 4097");
  EXPECT_EQ(reason({.next_n = 40}), "needs a next_n that fits shared memory, got 40");
  EXPECT_EQ(reason({.columns = (std::int64_t{1} << 30) + 1}),
            "needs up to 2^30 columns of logits, got 1073741825");
}

TEST(Sm90Mqa, StagesFillSharedMemory) {
  const cuda::DeviceInfo& device = usual_device("sm_90a");
  for (const std::int64_t next_n : {1, 2, 4, 8}) {
    const Sm90MqaStages stages = sm90_mqa_stages({.requests = 64, .next_n = next_n}, device);
    EXPECT_EQ(stages.q_stages, 2) << "the next request's queries come while this one's are used";
    EXPECT_EQ(stages.stages, next_n == 1 || next_n == 8 ? 8 : next_n == 2 ? 12 : 16);
    EXPECT_LE(stages.shared_bytes, device.shared_bytes_per_block);
  }
  EXPECT_EQ(sm90_mqa_stages({.heads = 128, .next_n = 8}, device).q_stages, 1) << "two do not fit";
  for (const std::int64_t heads : {8, 64, 128}) {
    for (std::int64_t requests = 1; requests <= kSm90MqaRequests; ++requests) {
      const Sm90MqaStages stages =
          sm90_mqa_stages({.heads = heads, .requests = requests, .next_n = 6}, device);
      ASSERT_LE(stages.shared_bytes + kSm90MqaStaticBytes, device.shared_bytes_per_block) << requests;
    }
  }
}

TEST(Sm90Mqa, StridesAndAddressesForBulkCopies) {
  const auto view = [](std::uintptr_t address, DType dtype, std::initializer_list<std::int64_t> shape) {
    return TensorView::contiguous(reinterpret_cast<void*>(address), dtype, shape);
  };
  EXPECT_TRUE(suits_bulk_copies(view(256, DType::u8, {3, kIndexKeyPageBytes})));
  EXPECT_FALSE(suits_bulk_copies(view(264, DType::u8, {3, kIndexKeyPageBytes})));
  EXPECT_FALSE(suits_bulk_copies(view(256, DType::u8, {3, kIndexKeyPageBytes + 4})));
  EXPECT_TRUE(suits_bulk_copies(view(256, DType::u8, {1, kIndexKeyPageBytes + 4})))
      << "one row has no distance";
  EXPECT_FALSE(suits_bulk_copies(view(256, DType::f32, {2, 6})));
}

#ifdef __SANITIZE_ADDRESS__
constexpr std::int64_t kHeads[] = {64};  // the compiler does not change with our sanitizers; its cost does
#else
constexpr std::int64_t kHeads[] = {8, 16, 32, 64, 128};
#endif

TEST(Sm90Mqa, EveryFormCompilesWithoutSpills) {
  std::vector<jit::Source> sources;
  for (const std::int64_t heads : kHeads) {
    for (const int ragged : {0, 1})
      sources.push_back(sm90_mqa_source({static_cast<std::int32_t>(heads), ragged, 128, 64, 0}));
    for (const int decode : {1, 2}) {
      if (heads <= 64)
        sources.push_back(sm90_mqa_source({static_cast<std::int32_t>(heads), 0, 128, 64, decode}));
    }
  }
  for (const Sm90MqaPlan& plan :
       {Sm90MqaPlan{48, 0, 32, 16, 0}, Sm90MqaPlan{64, 0, 64, 128, 0}, Sm90MqaPlan{64, 1, 32, 64, 0},
        Sm90MqaPlan{64, 0, 32, 16, 1}, Sm90MqaPlan{48, 0, 64, 16, 2}})
    sources.push_back(sm90_mqa_source(plan));
  const std::string general[] = {"mqa_logits:q=f32",
                                 "paged_mqa_logits:q=f32",
                                 "paged_mqa_logits:page=16,head_dim=32",
                                 "paged_mqa_logits:page=128,q=f32",
                                 "index_key_store:page=16,dim=32",
                                 "index_key_store:page=128,dim=64",
                                 "index_key_gather:page=32,dim=64",
                                 "top_k:n=8192",
                                 "top_k:n=8192,transform=paged",
                                 "top_k:n=16384",
                                 "top_k:n=16384,transform=paged",
                                 "top_k:rows=1,n=32768,transform=paged",
                                 "top_k:rows=64,n=65536",
                                 "top_k:rows=1000,n=32768",
                                 "top_k:rows=1000,n=32768,transform=paged,page=16"};
  for (jit::Source& source : kernel_sources(general, usual_device("sm_90a")))
    sources.push_back(std::move(source));
  jit::expect_no_spills(sources, "sm_90a");
}

}  // namespace
}  // namespace fathom
