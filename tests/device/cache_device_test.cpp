// Writing and reading the paged caches on a device, and the split of the work: the bytes of the CPU ops.
#include <numeric>

#include "fathom/ops/index_key_gather.hpp"
#include "fathom/ops/index_key_store.hpp"
#include "fathom/ops/mla_cache_store.hpp"
#include "fathom/ops/paged_mqa_schedule.hpp"
#include "twin.hpp"

namespace fathom {
namespace {

constexpr DType kFloats[] = {DType::f32, DType::bf16};

// Distinct slots below `count`, one in five -1.
Tensor random_slots(Random& random, DType dtype, std::int64_t tokens, std::int64_t count) {
  std::vector<std::int64_t> all(static_cast<std::size_t>(count));
  std::iota(all.begin(), all.end(), 0);
  std::shuffle(all.begin(), all.end(), random.engine());
  Tensor slots(dtype, {tokens});
  for (std::int64_t t = 0; t < tokens; ++t) {
    slots.set(t, random.integer(0, 4) == 0 ? -1.0 : static_cast<double>(all[static_cast<std::size_t>(t)]));
  }
  return slots;
}

// Rows of every size: subnormal, zero, huge, with NaN and infinity.
Tensor wild_rows(Random& random, DType dtype, std::int64_t rows, std::int64_t width) {
  Tensor x = random.normal(dtype, {rows, width});
  for (std::int64_t r = 0; r < rows; ++r) {
    const double scale = std::ldexp(1.0, static_cast<int>(random.integer(-140, 120)));
    for (std::int64_t i = 0; i < width; ++i) {
      if (r % 4 == 1) x.set(r * width + i, x[r * width + i] * scale);
      if (r % 7 == 2) x.set(r * width + i, 0);
    }
    const std::int64_t place = r * width + random.integer(0, width - 1);
    if (r % 5 == 3) x.set(place, std::numeric_limits<double>::quiet_NaN());
    if (r % 11 == 4) x.set(place, std::numeric_limits<double>::infinity());
  }
  return x;
}

auto index_pages(std::int64_t dim, bool f32, std::int64_t page = 64) {
  return [dim, f32, page](const TensorView& all) {
    if (!f32) return shaped(all, {all.size(0), page * (dim + 4)}, {all.step(0), 1});
    return shaped(all, {all.size(0), page, dim}, {all.step(0), dim + 1, 1});
  };
}
Tensor index_buffer(std::int64_t pages, std::int64_t dim, bool f32, std::int64_t padding,
                    std::int64_t page = 64) {
  return poisoned(f32 ? DType::f32 : DType::u8, {pages, page * (f32 ? dim + 1 : dim + 4) + padding});
}

TEST(IndexKeyStoreOnDevice, HasTheBytesOfTheCpu) {
  for (const DType dtype : kFloats) {
    for (const auto& [tokens, padding, f32, ue8m0] : {std::tuple{1, 0, false, false},
                                                      {100, 0, false, true},
                                                      {150, 3, false, false},
                                                      {90, 2, true, false}}) {
      Random random(tokens);
      const std::int64_t dim = f32 ? 70 : 128;
      const Twin k(wild_rows(random, dtype, tokens, dim + 3), columns(dim));
      const Twin slots(random_slots(random, tokens == 100 ? DType::i64 : DType::i32, tokens, 5 * 64));
      const Twin cache(index_buffer(5, dim, f32, padding), index_pages(dim, f32));
      index_key_store({k.device(), slots.device(), cache.device(), ue8m0}, device_context("cuda:simt"));
      index_key_store({k.host(), slots.host(), cache.host(), ue8m0}, test_context());
      cache.expect_same();
    }
  }
}

TEST(IndexKeysOnDevice, HaveTheBytesOfTheCpuForAnyPage) {
  for (const std::int64_t page : {16, 32, 64, 128}) {
    for (const std::int64_t dim : {32, 64, 128}) {
      for (const bool f32 : {false, true}) {
        Random random(page + dim);
        const bool ue8m0 = !f32 && dim == 64;
        const Twin k(wild_rows(random, page == 16 ? DType::bf16 : DType::f32, 70, dim + 1), columns(dim));
        const Twin slots(random_slots(random, DType::i32, 70, 5 * page));
        const Twin cache(index_buffer(5, dim, f32, 1, page), index_pages(dim, f32, page));
        index_key_store({k.device(), slots.device(), cache.device(), ue8m0}, device_context("cuda:simt"));
        index_key_store({k.host(), slots.host(), cache.host(), ue8m0}, test_context());
        cache.expect_same();
        const Twin block_table(tensor_of<int>(DType::i32, {2, 3}, {4, -1, 0, 2, 3, 1}));
        const std::int64_t total = 3 * page - 3 + page + 1;
        const Twin lens(tensor_of<std::int64_t>(DType::i32, {2}, {3 * page - 3, page + 1}));
        const Twin keys(poisoned(f32 ? DType::f32 : DType::f8e4m3, {total, dim + 1}), columns(dim));
        const Twin scales(poisoned(DType::f32, {total}));
        index_key_gather({cache.device(), block_table.device(), lens.device(), keys.device(),
                          f32 ? TensorView{} : scales.device()},
                         device_context("cuda:simt"));
        index_key_gather(
            {cache.host(), block_table.host(), lens.host(), keys.host(), f32 ? TensorView{} : scales.host()},
            test_context());
        keys.expect_same();
        scales.expect_same();
      }
    }
  }
}

TEST(MlaCacheStoreOnDevice, HasTheBytesOfTheCpu) {
  for (const DType latent_dtype : kFloats) {
    for (const DType rope_dtype : kFloats) {
      for (const DType cache_dtype : {DType::u8, DType::bf16, DType::f32}) {
        const bool quantised = cache_dtype == DType::u8;
        for (const std::int64_t padding : {0, 1}) {
          Random random(padding);
          const std::int64_t tokens = 120;
          const std::int64_t lora = quantised || padding == 0 ? 512 : 300;
          const std::int64_t rope_dim = 64 - padding;
          const std::int64_t width = quantised ? mla_cache_entry_bytes(lora, rope_dim) : lora + rope_dim;
          const Twin latent(wild_rows(random, latent_dtype, tokens, lora + padding), columns(lora));
          const Twin rope(wild_rows(random, rope_dtype, tokens, rope_dim + padding), columns(rope_dim));
          const Twin slots(random_slots(random, DType::i32, tokens, 200));
          const Twin cache(poisoned(cache_dtype, {200, width + padding}), columns(width));
          mla_cache_store({latent.device(), rope.device(), slots.device(), cache.device()},
                          device_context("cuda:simt"));
          mla_cache_store({latent.host(), rope.host(), slots.host(), cache.host()}, test_context());
          cache.expect_same();
        }
      }
    }
  }
}

TEST(StoresOnDevice, PassOverSlotsOutsideOfTheCache) {
  const Twin slots(tensor_of<int>(DType::i32, {3}, {-2, 128, 1 << 30}));
  const Twin k(Random(1).normal(DType::f32, {3, 128}));
  const Twin index_cache(index_buffer(2, 128, false, 0));
  index_key_store({k.device(), slots.device(), index_cache.device()}, device_context("cuda:simt"));
  index_cache.expect_same();
  const Twin cache(poisoned(DType::u8, {128, mla_cache_entry_bytes(128, 128)}));
  mla_cache_store({k.device(), k.device(), slots.device(), cache.device()}, device_context("cuda:simt"));
  cache.expect_same();
}

TEST(IndexKeyGatherOnDevice, HasTheBytesOfTheCpu) {
  for (const bool f32 : {false, true}) {
    for (const std::int64_t padding : {0, 1}) {
      Random random(padding);
      const std::int64_t dim = f32 ? 50 : 128;
      const std::vector<std::int64_t> lens{0, 1, 63, 64, 65, 300, 0, 700};
      const std::int64_t total = std::accumulate(lens.begin(), lens.end(), std::int64_t{0});
      Tensor pages = index_buffer(40, dim, f32, padding);
      for (std::int64_t i = 0; i < pages.count(); ++i)
        pages.set(i, static_cast<double>(random.integer(0, 255)));
      const Twin cache(std::move(pages), index_pages(dim, f32));
      Tensor table(DType::i32, {8, 14});
      for (std::int64_t i = 0; i < table.count(); ++i)
        table.set(i, static_cast<double>(random.integer(0, 39)));
      const Twin block_table(std::move(table), columns(13));
      const Twin len(tensor_of<std::int64_t>(DType::i32, {8}, lens));
      const Twin keys(poisoned(f32 ? DType::f32 : DType::f8e4m3, {total, dim + padding}), columns(dim));
      const Twin scales(poisoned(DType::f32, {total}));
      index_key_gather({cache.device(), block_table.device(), len.device(), keys.device(),
                        f32 ? TensorView{} : scales.device()},
                       device_context("cuda:simt"));
      index_key_gather(
          {cache.host(), block_table.host(), len.host(), keys.host(), f32 ? TensorView{} : scales.host()},
          test_context());
      keys.expect_same();
      scales.expect_same();
    }
  }
}

TEST(PagedMqaScheduleOnDevice, IsThatOfTheHost) {
  for (const auto& [batch, next_n, workers] :
       {std::tuple{1, 1, 1}, {3, 2, 132}, {64, 1, 132}, {700, 4, 7}, {0, 1, 3}}) {
    for (const std::int64_t longest : {0, 1, 300, 9000, 200000}) {
      Random random(batch + longest);
      Tensor lengths(DType::i32, {batch, next_n});
      for (std::int64_t i = 0; i < lengths.count(); ++i)
        lengths.set(i, static_cast<double>(random.integer(-2, longest)));
      const Twin lens(std::move(lengths));
      const Twin schedule(poisoned(DType::i32, {workers + 1, 2}));
      paged_mqa_schedule({lens.device(), schedule.device()}, device_context("cuda:simt"));
      paged_mqa_schedule({lens.host(), schedule.host()}, test_context());
      schedule.expect_same();
    }
  }
}

}  // namespace
}  // namespace fathom
