// The bytes of the paged caches, and reading slots, lengths and block tables. Shared by the attention ops.
#pragma once
#include <algorithm>
#include <cstring>
#include <string>

#include "fathom/core/tensor.hpp"
#include "fathom/ops/index_key_store.hpp"
#include "fathom/ops/mla_cache_store.hpp"
#include "ops/validate.hpp"

namespace fathom {

/// Element i of a one-axis i32 or i64 tensor.
inline std::int64_t integer_at(const TensorView& t, std::int64_t i) {
  return t.dtype == DType::i64 ? t.as<const std::int64_t>()[i * t.step(0)]
                               : t.as<const std::int32_t>()[i * t.step(0)];
}
inline std::int32_t int_at(const TensorView& t, std::int64_t i, std::int64_t j) {
  return t.as<const std::int32_t>()[i * t.step(0) + j * t.step(1)];
}

/// Every element is a slot below `slots` or -1. What is on a device cannot be looked at: its kernels pass
/// over a value that means nothing.
inline void expect_slots(const Expect& expect, const TensorView& slots, std::int64_t count) {
  if (!on_host(expect.device)) return;
  for (std::int64_t i = 0; i < slots.size(0); ++i) {
    const std::int64_t slot = integer_at(slots, i);
    if (slot < -1 || slot >= count) {
      expect.fail("slots", "be from -1 to " + std::to_string(count - 1),
                  std::to_string(slot) + " at [" + std::to_string(i) + "]");
    }
  }
}

/// The first `keys` positions of request `row` lie on pages of the cache or on none, -1.
inline void expect_pages(const Expect& expect, const TensorView& block_table, std::int64_t row,
                         std::int64_t keys, std::int64_t page_tokens, std::int64_t pages) {
  const std::int64_t used = (keys + page_tokens - 1) / page_tokens;
  for (std::int64_t i = 0; i < used; ++i) {
    const std::int64_t page = int_at(block_table, row, i);
    if (page < -1 || page >= pages) {
      expect.fail("block_table", "hold pages from 0 to " + std::to_string(pages - 1) + " or -1",
                  std::to_string(page) + " at [" + std::to_string(row) + "," + std::to_string(i) + "]");
    }
  }
}

/// A latent cache of entries of `lora` and `rope_dim` values.
inline void expect_mla_cache(const Expect& expect, const TensorView& cache, std::int64_t lora,
                             std::int64_t rope_dim) {
  expect.dtype("cache", cache, {DType::f32, DType::bf16, DType::u8});
  const bool quantised = cache.dtype == DType::u8;
  expect.that(!quantised || lora % 128 == 0, "latent", "have a multiple of 128 columns with a u8 cache",
              lora);
  expect.tensor("cache", cache, {DType::f32, DType::bf16, DType::u8},
                {-1, quantised ? mla_cache_entry_bytes(lora, rope_dim) : lora + rope_dim});
}

inline bool is_page_size(std::int64_t tokens) {
  return tokens == 16 || tokens == 32 || tokens == 64 || tokens == 128;
}

/// The tokens of a page of index keys, where the cache is one.
inline std::int64_t index_cache_page(const TensorView& cache, std::int64_t dim) {
  return cache.dtype == DType::u8 ? cache.size(1) / (dim + 4) : cache.size(1);
}

/// A cache of index keys: u8 [pages, page * (dim + 4)] or f32 [pages, page, dim]. Returns the tokens of a
/// page.
inline std::int64_t expect_index_cache(const Expect& expect, const TensorView& cache, std::int64_t dim,
                                       std::string_view name = "cache") {
  const bool quantised = cache.dtype == DType::u8;
  if (quantised) {
    expect.tensor(name, cache, {DType::u8, DType::f32}, {-1, -1});
    expect.that(dim == 32 || dim == 64 || dim == 128, name, "have keys of 32, 64 or 128 values if it is u8",
                dim);
  } else {
    expect.tensor(name, cache, {DType::u8, DType::f32}, {-1, -1, dim});
  }
  const std::int64_t tokens = index_cache_page(cache, dim);
  if (!is_page_size(tokens) || (quantised && cache.size(1) != tokens * (dim + 4))) {
    expect.fail(name,
                "have pages of 16, 32, 64 or 128 keys" +
                    (quantised ? " of " + std::to_string(dim) + " + 4 bytes" : std::string()),
                shape_string(cache));
  }
  return tokens;
}

/// The cache and the slots that `tokens` keys are stored in. The keys of a page.
inline std::int64_t expect_index_store(const Expect& expect, const TensorView& cache, const TensorView& slots,
                                       std::int64_t tokens, std::int64_t dim, bool ue8m0) {
  const std::int64_t page = expect_index_cache(expect, cache, dim);
  expect.that(!ue8m0 || cache.dtype == DType::u8, "ue8m0", "be false with an f32 cache", "true");
  expect.tensor("slots", slots, {DType::i32, DType::i64}, {tokens});
  expect_slots(expect, slots, cache.size(0) * page);
  return page;
}

/// A cache of index keys as the loops see it. The u8 form: keys and scales of a page; f32: keys only.
struct IndexCache {
  const TensorView& cache;
  std::int64_t tokens;  // of a page
  std::int64_t dim;

  std::uint8_t* page(std::int64_t p) const { return cache.as<std::uint8_t>() + p * cache.step(0); }
  std::uint8_t* key_f8(std::int64_t p, std::int64_t o) const { return page(p) + o * dim; }
  std::uint8_t* scale(std::int64_t p, std::int64_t o) const { return page(p) + tokens * dim + o * 4; }
  float* key_f32(std::int64_t p, std::int64_t o) const {
    return cache.as<float>() + p * cache.step(0) + o * cache.step(1);
  }
};

/// f32 at any alignment.
inline float load_f32(const void* data) {
  float value;
  std::memcpy(&value, data, sizeof value);
  return value;
}
inline void store_f32(void* data, float value) { std::memcpy(data, &value, sizeof value); }

}  // namespace fathom
