// The page allocator, the caches' shapes, and the metadata of a step in every forward mode.
#include "fathom/engine/cache.hpp"

#include <numeric>
#include <random>
#include <set>

#include "engine/cache/batch_metadata.hpp"
#include "ops/op_test.hpp"

namespace fathom {
namespace {

using Ints = std::vector<std::int32_t>;
Ints ints(const TensorView& view) {
  return {view.as<std::int32_t>(), view.as<std::int32_t>() + view.count()};
}

CacheShape small_shape() { return {.layers = 2, .lora = 128, .rope_dim = 16}; }

TEST(PageAllocator, HandsOutEveryPageOnce) {
  PageAllocator allocator(3);
  std::set<std::int32_t> pages{allocator.allocate(), allocator.allocate(), allocator.allocate()};
  EXPECT_EQ(pages, (std::set<std::int32_t>{0, 1, 2}));
  EXPECT_ERROR(EnvironmentError, "cache: all 3 pages of 64 tokens are in use", allocator.allocate());
  allocator.free(1);
  EXPECT_EQ(allocator.free_pages(), 1);
  EXPECT_EQ(allocator.allocate(), 1);
  EXPECT_ERROR(InvalidArgument, "cache: page 3 is not in use", allocator.free(3));
  allocator.free(0);
  EXPECT_ERROR(InvalidArgument, "cache: page 0 is not in use", allocator.free(0));
}

TEST(KvCache, BytesOfAToken) {
  const CacheShape v32{.layers = 62};
  EXPECT_EQ(v32.kv_bytes_per_token(), 656);
  EXPECT_EQ(v32.index_bytes_per_token(), 132);
  EXPECT_EQ(v32.bytes_per_token(), 62 * 788);
  const CacheShape f32{.layers = 1, .kv = KvFormat::f32, .index_fp8 = false};
  EXPECT_EQ(f32.bytes_per_token(), 576 * 4 + 128 * 4);
  const CacheShape bf16{.layers = 1, .kv = KvFormat::bf16};
  EXPECT_EQ(bf16.kv_bytes_per_token(), 1152);
  KvCache cache(f32, 3);
  EXPECT_EQ(cache.bytes(), 3 * 64 * (576 * 4 + 128 * 4));
  EXPECT_EQ(shape_string(cache.kv(0)), "[192,576]");
  EXPECT_EQ(shape_string(cache.index_keys(0)), "[3,64,128]");
  KvCache fp8(v32, 2);
  EXPECT_EQ(shape_string(fp8.kv(61)), "[128,656]");
  EXPECT_EQ(shape_string(fp8.index_keys(61)), "[2,8448]");
}

TEST(KvCache, RejectedTokensFreeWholePagesOnly) {
  KvCache cache(small_shape(), 4);
  const SequenceId sequence = cache.add_sequence();
  cache.reserve(sequence, 130);
  cache.set_length(sequence, 130);
  EXPECT_EQ(cache.free_pages(), 1);
  cache.set_length(sequence, 129);
  EXPECT_EQ(cache.free_pages(), 1);
  cache.set_length(sequence, 128);
  EXPECT_EQ(cache.free_pages(), 2);
  EXPECT_EQ(cache.length(sequence), 128);
  EXPECT_ERROR(InvalidArgument, "cache: length 129 needs 3 pages, sequence 0 has 2",
               cache.set_length(sequence, 129));
  EXPECT_ERROR(EnvironmentError, "cache: 3 more pages of 64 tokens are needed, 2 of 4 are free",
               cache.reserve(sequence, 257));
  EXPECT_EQ(cache.pages(sequence).size(), 2u);  // a refused reservation changes nothing
  cache.remove_sequence(sequence);
  EXPECT_EQ(cache.free_pages(), 4);
  EXPECT_ERROR(InvalidArgument, "cache: there is no sequence 0", cache.length(sequence));
}

// Whatever happens, no page belongs to two sequences and none is lost.
TEST(KvCache, RandomUseNeverSharesAPage) {
  std::mt19937 random(5);
  KvCache cache(small_shape(), 20);
  std::vector<SequenceId> live;
  for (int step = 0; step < 2000; ++step) {
    const auto choice = random() % 4;
    if (choice == 0 && live.size() < 6) live.push_back(cache.add_sequence());
    if (live.empty()) continue;
    const std::size_t which = random() % live.size();
    if (choice == 1) {
      cache.remove_sequence(live[which]);
      live.erase(live.begin() + static_cast<std::ptrdiff_t>(which));
    } else if (choice == 2) {
      try {
        cache.reserve(live[which], random() % 700);
      } catch (const EnvironmentError&) {
      }
    } else if (choice == 3) {
      const auto room = static_cast<std::int64_t>(cache.pages(live[which]).size()) * kPageTokens;
      cache.set_length(live[which], room == 0 ? 0 : static_cast<std::int64_t>(random()) % room);
    }
    std::set<std::int32_t> owned;
    std::size_t count = 0;
    for (const SequenceId sequence : live) {
      owned.insert(cache.pages(sequence).begin(), cache.pages(sequence).end());
      count += cache.pages(sequence).size();
    }
    ASSERT_EQ(owned.size(), count);
    ASSERT_EQ(cache.free_pages(), 20 - static_cast<std::int64_t>(count));
  }
}

/// Two sequences whose pages interleave: 0 and 1 of the first, 2 of the second, then 3 of the first.
struct TwoSequences {
  TwoSequences() {
    first = cache.add_sequence();
    second = cache.add_sequence();
    cache.reserve(first, 128);
    cache.reserve(second, 64);
    cache.reserve(first, 192);
  }
  BatchMetadata build(ForwardMode mode, std::vector<BatchRequest> requests, std::int64_t topk = 2048) const {
    BatchMetadata batch;
    batch.build(mode, requests, cache, topk, test_context());
    return batch;
  }
  KvCache cache{small_shape(), 4};
  SequenceId first = 0, second = 0;
};

TEST(BatchMetadata, TargetVerify) {  // B = 2, nd = 4, n = [10, 4]
  TwoSequences s;
  const BatchMetadata batch =
      s.build(ForwardMode::target_verify, {{s.first, 10, 4}, {s.second, 4, 4}}, /*topk=*/4);
  EXPECT_EQ(batch.batch, 2);
  EXPECT_EQ(batch.rows, 8);
  EXPECT_EQ(ints(batch.cache_seqlens), (Ints{14, 8}));
  EXPECT_EQ(ints(batch.seqlens_expanded), (Ints{11, 12, 13, 14, 5, 6, 7, 8}));
  EXPECT_EQ(ints(batch.topk_lens), (Ints{4, 4, 4, 4, 4, 4, 4, 4}));
  EXPECT_EQ(ints(batch.cu_topk_lens), (Ints{0, 4, 8, 12, 16, 20, 24, 28, 32}));
  EXPECT_EQ(ints(batch.cu_seqlens_q), (Ints{0, 1, 2, 3, 4, 5, 6, 7, 8}));
  EXPECT_EQ(ints(batch.cu_seqlens_k), (Ints{0, 14, 22}));
  EXPECT_EQ(batch.max_seqlen_k, 14);
  EXPECT_EQ(ints(batch.positions), (Ints{10, 11, 12, 13, 4, 5, 6, 7}));
  EXPECT_EQ(ints(batch.slots), (Ints{10, 11, 12, 13, 132, 133, 134, 135}));
  EXPECT_EQ(ints(batch.requests), (Ints{0, 0, 0, 0, 1, 1, 1, 1}));
  EXPECT_EQ(ints(batch.block_table), (Ints{0, 2}));
  EXPECT_FALSE(batch.ks.given() || batch.ke.given());
  EXPECT_EQ(batch.paged_batch, 2);  // native: one block of 4 rows a request, each with its own causal length
  EXPECT_EQ(batch.next_n, 4);
  EXPECT_EQ(ints(batch.context_lens()), ints(batch.seqlens_expanded));
  EXPECT_EQ(ints(batch.schedule), (Ints{0, 0, 1, 0, 2, 0}));
  EXPECT_TRUE(batch.sparse);
}

TEST(BatchMetadata, Decode) {  // lengths 11 and 5, the new token included
  TwoSequences s;
  const BatchMetadata batch = s.build(ForwardMode::decode, {{s.first, 10, 1}, {s.second, 4, 1}});
  EXPECT_EQ(ints(batch.cache_seqlens), (Ints{11, 5}));
  EXPECT_EQ(batch.rows, 2);
  EXPECT_EQ(ints(batch.seqlens_expanded), (Ints{11, 5}));
  EXPECT_EQ(ints(batch.topk_lens), (Ints{11, 5}));
  EXPECT_EQ(ints(batch.cu_seqlens_q), (Ints{0, 1, 2}));
  EXPECT_EQ(ints(batch.cu_seqlens_k), (Ints{0, 11, 16}));
  EXPECT_EQ(ints(batch.slots), (Ints{10, 132}));
  EXPECT_EQ(batch.next_n, 1);
  EXPECT_EQ(ints(batch.context_lens()), (Ints{11, 5}));
  EXPECT_FALSE(batch.sparse);
}

TEST(BatchMetadata, Extend) {  // m = [3, 2], n = [10, 4]: two different running offsets
  TwoSequences s;
  const BatchMetadata batch = s.build(ForwardMode::extend, {{s.first, 7, 3}, {s.second, 2, 2}}, /*topk=*/9);
  EXPECT_EQ(ints(batch.ks), (Ints{0, 0, 0, 10, 10}));
  EXPECT_EQ(ints(batch.ke), (Ints{8, 9, 10, 13, 14}));
  EXPECT_EQ(ints(batch.score_ends), (Ints{0, 0, 10, 10, 10}));  // only one row sees more than 9
  EXPECT_EQ(ints(batch.seqlens_expanded), (Ints{8, 9, 10, 3, 4}));
  EXPECT_EQ(ints(batch.topk_lens), (Ints{8, 9, 9, 3, 4}));
  EXPECT_EQ(ints(batch.cu_seqlens_q), (Ints{0, 3, 5}));
  EXPECT_EQ(ints(batch.cu_seqlens_k), (Ints{0, 10, 14}));
  EXPECT_EQ(batch.max_seqlen_k, 10);
  EXPECT_FALSE(batch.schedule.given());
  EXPECT_EQ(batch.keys, 14);
  EXPECT_TRUE(batch.sparse);
}

TEST(BatchMetadata, DraftExtendWithDifferentShares) {  // 3 and 1 committed tokens
  TwoSequences s;
  const BatchMetadata batch = s.build(ForwardMode::draft_extend, {{s.first, 128, 3}, {s.second, 4, 1}});
  EXPECT_EQ(ints(batch.cache_seqlens), (Ints{131, 5}));
  EXPECT_EQ(ints(batch.seqlens_expanded), (Ints{129, 130, 131, 5}));
  EXPECT_EQ(ints(batch.slots), (Ints{192, 193, 194, 132}));
  EXPECT_EQ(ints(batch.cu_seqlens_q), (Ints{0, 1, 2, 3, 4}));
  EXPECT_EQ(ints(batch.block_table), (Ints{0, 1, 3, 2, -1, -1}));
  EXPECT_EQ(batch.paged_batch, 4);  // split: every row a request of its own
  EXPECT_EQ(batch.next_n, 1);
  EXPECT_EQ(ints(batch.paged_block_table()), (Ints{0, 1, 3, 0, 1, 3, 0, 1, 3, 2, -1, -1}));
}

TEST(BatchMetadata, PageBordersAndPrefixes) {
  KvCache cache(small_shape(), 70);
  const SequenceId sequence = cache.add_sequence();
  cache.reserve(sequence, 70 * 64);
  for (const std::int64_t prefix : {0, 63, 64, 127, 128, 192, 2048, 4096}) {
    BatchMetadata batch;
    const BatchRequest request{.sequence = sequence, .prefix = prefix, .extend = 2};
    batch.build(ForwardMode::extend, {&request, 1}, cache, 2048, test_context());
    EXPECT_EQ(ints(batch.slots),
              (Ints{static_cast<std::int32_t>(prefix), static_cast<std::int32_t>(prefix + 1)}));
    EXPECT_EQ(batch.max_pages, (prefix + 2 + 63) / 64);
    EXPECT_EQ(batch.sparse, prefix + 2 > 2048);
  }
}

TEST(BatchMetadata, IdleIsEmpty) {
  TwoSequences s;
  BatchMetadata batch = s.build(ForwardMode::decode, {{s.first, 10, 1}});
  batch.build(ForwardMode::idle, {}, s.cache, 2048, test_context());  // nothing of the last step survives
  EXPECT_EQ(batch.rows, 0);
  EXPECT_EQ(batch.batch, 0);
  EXPECT_TRUE(ints(batch.slots).empty() && ints(batch.context_lens()).empty());
  EXPECT_FALSE(batch.schedule.given());
  EXPECT_EQ(ints(batch.cu_seqlens_k), (Ints{0}));
  EXPECT_FALSE(batch.sparse);
}

TEST(BatchMetadata, RejectsRequestsThatDoNotFitTheMode) {
  TwoSequences s;
  EXPECT_ERROR(InvalidArgument, "mode decode takes 1 new token of every request, got 2",
               s.build(ForwardMode::decode, {{s.first, 3, 2}}));
  EXPECT_ERROR(InvalidArgument, "mode target_verify takes as many tokens of every request, got 2 and 3",
               s.build(ForwardMode::target_verify, {{s.first, 3, 2}, {s.second, 3, 3}}));
  EXPECT_ERROR(InvalidArgument, "mode extend needs pages for 65 tokens of sequence 1, it has pages for 64",
               s.build(ForwardMode::extend, {{s.second, 60, 5}}));
  EXPECT_ERROR(InvalidArgument, "mode idle takes no request", s.build(ForwardMode::idle, {{s.first, 0, 1}}));
  EXPECT_ERROR(InvalidArgument,
               "mode extend needs a prefix of at least 0 and at least 1 new token, got 3 and 0",
               s.build(ForwardMode::extend, {{s.first, 3, 0}}));
}

}  // namespace
}  // namespace fathom
