// Latent attention of some heads of one token on the CPU: the core of sparse_mla.
#pragma once
#include <cstdint>

#include "fathom/core/tensor.hpp"

namespace fathom::cpu {

/// Entries are taken in list order in blocks of 64 with an online softmax; no sum depends on the heads that
/// are computed together.
struct MlaHeads {
  std::int64_t heads = 0;
  std::int64_t lora = 0;
  std::int64_t rope_dim = 0;

  const void* q = nullptr;  // [heads, lora + rope_dim]
  DType q_dtype = DType::f32;
  std::int64_t q_stride = 0;  // elements from head to head

  const std::uint8_t* cache = nullptr;
  DType cache_dtype = DType::u8;
  std::int64_t entry_bytes = 0;  // from slot to slot

  const std::int32_t* slots = nullptr;  // all valid
  std::int64_t count = 0;
  float softmax_scale = 0;
  const float* sink = nullptr;  // [heads], or none
  float* lse = nullptr;         // [heads], written; or none

  void* out = nullptr;  // [heads, lora]
  DType out_dtype = DType::f32;
  std::int64_t out_stride = 0;
};

void mla_heads(const MlaHeads& task);

/// What the sums of head h are multiplied by at the end, 0 without entries. Writes its log-sum-exp.
float mla_share(const MlaHeads& task, std::int64_t h, float highest, float total);

// The instruction-set versions.
void mla_heads_simd(const MlaHeads& task);
/// bf16 or u8 cache; lora is a multiple of 64, rope_dim of 32.
void mla_heads_avx512_bf16(const MlaHeads& task);

inline constexpr std::int64_t kMlaBlock = 64;

}  // namespace fathom::cpu
