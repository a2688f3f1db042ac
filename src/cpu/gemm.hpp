// The CPU core of every matrix product: rows times one weight matrix whose rows lie along k, in any weight
// format.
//
// The sum of one output element has one order, whatever m, the threads or the place of the element in a tile:
//   groups of 128 along k in ascending order; inside a group a fixed order of the instruction set in use;
//   total = fma(sum of the group, a_scale * b_scale, total), both scales 1 where none is given.
#pragma once
#include <cstdint>
#include <span>

#include "fathom/core/context.hpp"
#include "fathom/core/tensor.hpp"

namespace fathom::cpu {

/// Scales of one operand: f32 with any strides, or UE8M0 packed four groups to an i32. No data: all are 1.
struct GemmScale {
  const void* data = nullptr;
  bool packed = false;
  std::int64_t row_stride = 0;    // from one row (or block of rows) to the next
  std::int64_t group_stride = 0;  // from one group (packed: from one word) to the next
  std::int64_t rows = 1;          // rows of the operand that share a row of scales: 1 or 128
};
/// A scale tensor [rows, groups], or nothing.
GemmScale gemm_scale(const TensorView& scale, std::int64_t rows);

/// out[i, j] = sum_k a[i, k] * b[j, k], with scales, added to out if accumulate.
/// (a, b) is (f8e4m3, f8e4m3), (bf16, bf16 | f8e4m3) or (f32, f32 | bf16 | f8e4m3). Strides count elements.
struct Gemm {
  std::int64_t m = 0;
  std::int64_t n = 0;
  std::int64_t k = 0;
  const void* a = nullptr;
  DType a_dtype = DType::f32;
  std::int64_t a_stride = 0;
  GemmScale a_scale{};
  const void* b = nullptr;
  DType b_dtype = DType::f32;
  std::int64_t b_stride = 0;
  const void* next_b = nullptr;  // weights of the same shape that are likely to be read next
  GemmScale b_scale{};
  void* out = nullptr;
  DType out_dtype = DType::f32;
  std::int64_t out_stride = 0;
  bool accumulate = false;

  /// From views [m, k], [n, k] and [m, n]; scales stay to be set.
  static Gemm of(const TensorView& a, const TensorView& b, const TensorView& out);
};

/// Tells every product where the next one's weights are, if they have the same shape.
void link_weights(std::span<Gemm> products);
/// All of each product, split over columns (and rows) on the context's threads; small work stays on the
/// calling thread. How it is split never shows in the result. The products must not overlap in `out`.
void gemm_all(std::span<const Gemm> products, const Context& context);
inline void gemm(const Gemm& product, const Context& context) { gemm_all({&product, 1}, context); }

}  // namespace fathom::cpu
