// Writes tokens into the latent (MLA) key-value cache.
#pragma once
#include "fathom/core/context.hpp"
#include "fathom/core/problem.hpp"
#include "fathom/core/tensor.hpp"

namespace fathom {

/// One entry of a u8 cache: `lora` e4m3 values, one f32 scale for every 128 of them, `rope_dim` bf16 values.
constexpr std::int64_t mla_cache_entry_bytes(std::int64_t lora, std::int64_t rope_dim) {
  return lora + lora / 128 * 4 + 2 * rope_dim;
}

struct MlaCacheStoreProblem {
  static constexpr std::string_view op = "mla_cache_store";
  std::int64_t tokens = 1;
  std::int64_t lora = 512;
  std::int64_t rope_dim = 64;
  DType latent = DType::f32;
  DType rope = DType::f32;
  DType slots = DType::i32;
  DType cache = DType::u8;

  template <class V>
  void fields(V& visit) {
    visit("tokens", tokens);
    visit("lora", lora);
    visit("rope_dim", rope_dim);
    visit("latent", latent);
    visit("rope", rope);
    visit("slots", slots);
    visit("cache", cache);
  }
  bool operator==(const MlaCacheStoreProblem&) const = default;
};

struct MlaCacheStoreArgs {
  TensorView latent;  // [tokens, lora]
  TensorView rope;    // [tokens, rope_dim]
  TensorView slots;   // [tokens]
  TensorView cache;   // [slots, width], written
};

/// Stores the normed latent and the rotated key of every token at its slot.
///
///   latent  [tokens, lora]      f32 or bf16
///   rope    [tokens, rope_dim]  f32 or bf16
///   slots   [tokens]            i32 or i64; -1 skips the token; a slot may not appear twice
///   cache   [slots, width]      f32 or bf16 with width = lora + rope_dim: latent, then rope;
///                               or u8 with width = mla_cache_entry_bytes(lora, rope_dim) (656 for 512 and
///                               64)
///
/// A u8 entry holds, for every group of 128 latent values, with amax the largest magnitude of the group,
///   scale = amax / 448 and q = e4m3(x * (1 / scale)), round to nearest even, saturating;
/// then the scales as f32; then rope as bf16, not quantised. There is no floor under amax: a group whose
/// 1 / scale is not finite (all zeros, or nothing above 2^-119) is stored as scale 0 and values 0.
/// Rows of the cache may be strided, a u8 cache at any alignment.
///
/// Throws InvalidArgument if a shape or dtype differs, lora is no multiple of 128 with a u8 cache, or a slot
/// lies outside of the cache; nothing is written then. On a device, where slots are not looked at, such a
/// token is skipped.
void mla_cache_store(const MlaCacheStoreArgs& args, const Context& context);

}  // namespace fathom
