// What the parts of the matrix product core share: the instruction-set versions and their scratch memory.
#pragma once
#include "cpu/gemm.hpp"
#include "ops/gemm_scales.hpp"

namespace fathom::cpu {

/// Highway version: every dtype, every instruction set.
void gemm_columns_simd(const Gemm& gemm, std::int64_t begin, std::int64_t end);

/// AVX-512 BF16 version: (f8e4m3, f8e4m3) and (bf16, bf16), only where has_avx512_bf16().
void gemm_columns_avx512_bf16(const Gemm& gemm, std::int64_t begin, std::int64_t end);

/// Memory of this thread that grows and is kept; 64-byte aligned. Valid until the thread's next call.
std::byte* gemm_scratch(std::int64_t bytes);

/// The scale of operand row i and group g.
inline float scale_of(const GemmScale& scale, std::int64_t i, std::int64_t g) {
  if (scale.data == nullptr) return 1.0f;
  const std::int64_t row = (scale.rows == 1 ? i : i / kScaleGroup) * scale.row_stride;
  if (!scale.packed) return static_cast<const float*>(scale.data)[row + g * scale.group_stride];
  const auto word = static_cast<std::uint32_t>(
      static_cast<const std::int32_t*>(scale.data)[row + g / 4 * scale.group_stride]);
  return ue8m0_to_float(word >> (8 * (g % 4)) & 0xff);
}

}  // namespace fathom::cpu
