// Caches of benches, with contents like a model's.
#pragma once
#include <algorithm>

#include "bench.hpp"
#include "fathom/ops/mla_cache_store.hpp"

namespace fathom {

/// `slots` latent entries: those of `each` random tokens, again and again.
inline std::shared_ptr<BenchBuffer> bench_mla_cache(std::int64_t slots, std::int64_t each, DType dtype,
                                                    std::int64_t lora, std::int64_t rope,
                                                    const Context& context) {
  const std::int64_t width = dtype == DType::u8 ? mla_cache_entry_bytes(lora, rope) : lora + rope;
  const auto cache = bench_buffer(slots * width * size_of(dtype));
  const auto entries = bench_normal(DType::f32, {each, lora + rope});
  TensorView latent = entries->host_view(DType::f32, {each, lora + rope});
  TensorView k_rope = latent;
  latent.shape[1] = lora;
  k_rope.shape[1] = rope;
  k_rope.data = latent.as<float>() + lora;
  const Buffer slot(each * 4);
  const Buffer part(each * width * size_of(dtype));
  for (std::int64_t i = 0; i < each; ++i)
    reinterpret_cast<std::int32_t*>(slot.data())[i] = static_cast<std::int32_t>(i);
  mla_cache_store({.latent = latent,
                   .rope = k_rope,
                   .slots = slot.view(DType::i32, {each}),
                   .cache = part.view(dtype, {each, width})},
                  Context({.threads = context.threads()}));
  cache->repeat({part.data(), static_cast<std::size_t>(each * width * size_of(dtype))});
  return cache;
}

/// `pages` of FP8 index keys, `page` keys of `dim` each with their scales behind them.
inline std::shared_ptr<BenchBuffer> bench_index_cache(std::int64_t pages, std::int64_t page,
                                                      std::int64_t dim) {
  const std::int64_t page_bytes = page * (dim + 4);
  const std::int64_t fresh = std::min<std::int64_t>(pages, 61);
  const auto part = bench_normal(DType::f8e4m3, {fresh, page_bytes});
  for (std::int64_t i = 0; i < fresh; ++i) {
    std::fill_n(reinterpret_cast<float*>(part->data() + i * page_bytes + page * dim), page, 0.01f);
  }
  const auto cache = bench_buffer(pages * page_bytes);
  cache->repeat({part->data(), static_cast<std::size_t>(fresh * page_bytes)});
  return cache;
}

}  // namespace fathom
