// What the parts of the matrix product core share: the instruction-set versions and their scratch memory.
#pragma once
#include "cpu/gemm.hpp"
#include "ops/gemm_scales.hpp"

namespace fathom::cpu {

/// One way to compute. The left operand is packed once, a block of rows at a time, into the form its tiles
/// want; then any range of columns can be computed from that, on any thread.
struct GemmKernel {
  std::int64_t most_rows;  // of a block
  // Rough rates of one core, for deciding how to split: bytes of weights and products a nanosecond.
  double weight_rate;
  double product_rate;
  std::int64_t (*packed_bytes)(const Gemm& gemm, std::int64_t rows);
  /// Rows [begin, end) of the block of `rows` rows that starts at row `first`. `packed` is 64-byte aligned.
  void (*pack)(const Gemm& gemm, std::int64_t first, std::int64_t rows, std::int64_t begin, std::int64_t end,
               std::byte* packed);
  /// Columns [begin, end) of the block's rows.
  void (*columns)(const Gemm& gemm, std::int64_t first, std::int64_t rows, const std::byte* packed,
                  std::int64_t begin, std::int64_t end);
};

/// Highway version: every dtype, every instruction set.
extern const GemmKernel gemm_kernel_simd;
/// AVX-512 BF16 version: (f8e4m3, f8e4m3) and (bf16, bf16 | f8e4m3), only where has_avx512_bf16().
extern const GemmKernel gemm_kernel_avx512_bf16;

/// Memory of this thread that grows and is kept; 64-byte aligned. Valid until the thread's next call.
std::byte* gemm_scratch(std::int64_t bytes);

inline std::int64_t round_up_64(std::int64_t bytes) { return (bytes + 63) / 64 * 64; }

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
