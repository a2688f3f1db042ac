// AVX-512 BF16 building blocks: e4m3 to bf16 in registers, and transposition of 16 rows so that a lane is a
// row.
//
// Only for code behind has_avx512_bf16(). Files that use it compile without special flags: they put their
// functions, lambdas included, between FATHOM_AVX512_BF16_BEGIN and FATHOM_AVX512_BF16_END, after all
// #includes.
#pragma once
#if defined(__x86_64__) && defined(__GNUC__)
#define FATHOM_HAS_AVX512_BF16_CODE 1
#include <immintrin.h>

#include <cstdint>

#if defined(__clang__)
// _Pragma takes one literal.
// clang-format off
#define FATHOM_AVX512_BF16_BEGIN \
  _Pragma("clang attribute push(__attribute__((target(\"avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512bf16,fma\"))), apply_to = function)")
// clang-format on
#define FATHOM_AVX512_BF16_END _Pragma("clang attribute pop")
#else
// GCC 12 takes the undefined vector inside its own intrinsics for an uninitialised variable.
#define FATHOM_AVX512_BF16_BEGIN                                                                     \
  _Pragma("GCC push_options")                                                                        \
      _Pragma("GCC target(\"avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512bf16,fma\")")        \
          _Pragma("GCC diagnostic push") _Pragma("GCC diagnostic ignored \"-Wmaybe-uninitialized\"") \
              _Pragma("GCC diagnostic ignored \"-Wuninitialized\"")
#define FATHOM_AVX512_BF16_END _Pragma("GCC diagnostic pop") _Pragma("GCC pop_options")
#endif

FATHOM_AVX512_BF16_BEGIN
namespace fathom::cpu {

#define FATHOM_AVX512_INLINE __attribute__((always_inline)) inline

/// The bytes of bf16 by e4m3 magnitude (7 bits): upper byte without sign, lower byte.
struct F8Tables {
  __m512i upper[2];
  __m512i lower[2];
  __m512i sign;
};

namespace detail {
struct F8TableBytes {
  alignas(64) std::uint8_t upper[128]{};
  alignas(64) std::uint8_t lower[128]{};
};
constexpr F8TableBytes make_f8_table_bytes() {
  F8TableBytes table;
  for (unsigned code = 0; code < 128; ++code) {
    const unsigned exponent = code >> 3;
    const unsigned mantissa = code & 7;
    unsigned bits = (exponent + 120) << 7 | mantissa << 4;
    if (exponent == 0) {  // mantissa * 2^-9, normalised
      unsigned shift = 0;
      while (mantissa != 0 && (mantissa << shift & 8) == 0) ++shift;
      bits = mantissa == 0 ? 0 : (121 - shift) << 7 | (mantissa << shift & 7) << 4;
    }
    if (code == 127) bits = 0x7fc0;
    table.upper[code] = static_cast<std::uint8_t>(bits >> 8);
    table.lower[code] = static_cast<std::uint8_t>(bits & 0xff);
  }
  return table;
}
inline constexpr F8TableBytes kF8TableBytes = make_f8_table_bytes();
}  // namespace detail

FATHOM_AVX512_INLINE F8Tables load_f8_tables() {
  const auto& bytes = detail::kF8TableBytes;
  return {{_mm512_load_si512(bytes.upper), _mm512_load_si512(bytes.upper + 64)},
          {_mm512_load_si512(bytes.lower), _mm512_load_si512(bytes.lower + 64)},
          _mm512_set1_epi8(static_cast<char>(0x80))};
}

/// 64 e4m3 codes as bf16, exact, NaN and subnormals included. Each 128-bit lane of `first` holds the values
/// of bytes 0..7 of that lane of `codes`, `second` those of bytes 8..15.
FATHOM_AVX512_INLINE void f8_to_bf16(__m512i codes, const F8Tables& tables, __m512i& first, __m512i& second) {
  __m512i upper = _mm512_permutex2var_epi8(tables.upper[0], codes, tables.upper[1]);
  const __m512i lower = _mm512_permutex2var_epi8(tables.lower[0], codes, tables.lower[1]);
  upper = _mm512_ternarylogic_epi32(upper, codes, tables.sign, 0xf8);  // upper | (codes & sign)
  first = _mm512_unpacklo_epi8(lower, upper);
  second = _mm512_unpackhi_epi8(lower, upper);
}

/// sum + the products of the 16 pairs of bf16.
FATHOM_AVX512_INLINE __m512 dot_pairs(__m512 sum, __m512i a, __m512i b) {
  return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
}

/// One pair of bf16 in every lane.
FATHOM_AVX512_INLINE __m512i broadcast_pair(const std::uint32_t* pair) {
  return _mm512_set1_epi32(static_cast<int>(*pair));
}

/// 4x4 transposition of 128-bit lanes: out[l] = lane l of in[0], in[1], in[2], in[3].
FATHOM_AVX512_INLINE void transpose_lanes(const __m512i (&in)[4], __m512i (&out)[4]) {
  const __m512i even01 = _mm512_shuffle_i32x4(in[0], in[1], 0x88);
  const __m512i odd01 = _mm512_shuffle_i32x4(in[0], in[1], 0xdd);
  const __m512i even23 = _mm512_shuffle_i32x4(in[2], in[3], 0x88);
  const __m512i odd23 = _mm512_shuffle_i32x4(in[2], in[3], 0xdd);
  out[0] = _mm512_shuffle_i32x4(even01, even23, 0x88);
  out[1] = _mm512_shuffle_i32x4(odd01, odd23, 0x88);
  out[2] = _mm512_shuffle_i32x4(even01, even23, 0xdd);
  out[3] = _mm512_shuffle_i32x4(odd01, odd23, 0xdd);
}

/// Four rows of 64 bytes become four vectors; in lane l of quad[j] are 16-bit words 8l+2j of the rows 0..3,
/// then words 8l+2j+1 of the rows 0..3.
FATHOM_AVX512_INLINE void transpose_words(const __m512i (&rows)[4], __m512i (&quad)[4]) {
  const __m512i low01 = _mm512_unpacklo_epi16(rows[0], rows[1]);
  const __m512i high01 = _mm512_unpackhi_epi16(rows[0], rows[1]);
  const __m512i low23 = _mm512_unpacklo_epi16(rows[2], rows[3]);
  const __m512i high23 = _mm512_unpackhi_epi16(rows[2], rows[3]);
  quad[0] = _mm512_unpacklo_epi32(low01, low23);
  quad[1] = _mm512_unpackhi_epi32(low01, low23);
  quad[2] = _mm512_unpacklo_epi32(high01, high23);
  quad[3] = _mm512_unpackhi_epi32(high01, high23);
}

/// Four rows of 64 bytes become four vectors; in lane l of quad[j] are 32-bit words 4l+j of the rows 0..3.
FATHOM_AVX512_INLINE void transpose_pairs(const __m512i (&rows)[4], __m512i (&quad)[4]) {
  const __m512i low01 = _mm512_unpacklo_epi32(rows[0], rows[1]);
  const __m512i high01 = _mm512_unpackhi_epi32(rows[0], rows[1]);
  const __m512i low23 = _mm512_unpacklo_epi32(rows[2], rows[3]);
  const __m512i high23 = _mm512_unpackhi_epi32(rows[2], rows[3]);
  quad[0] = _mm512_unpacklo_epi64(low01, low23);
  quad[1] = _mm512_unpackhi_epi64(low01, low23);
  quad[2] = _mm512_unpacklo_epi64(high01, high23);
  quad[3] = _mm512_unpackhi_epi64(high01, high23);
}

/// 16 rows of 64 bytes, transposed: visit(j, l, x) for j in 0..3, and for every j for l in 0..3. With k
/// counted from the first byte of the rows, which load(r) returns:
///   kWords = true   (e4m3): f8_to_bf16(x) gives the pairs of k = 16l + 4j and of k + 2, lane r = row r
///   kWords = false  (bf16): x holds the pairs of k = 8l + 2j, lane r = row r
template <bool kWords, class Load, class Visit>
FATHOM_AVX512_INLINE void transpose_tile(Load load, Visit visit) {
  __m512i quads[4][4];
#pragma GCC unroll 4
  for (int q = 0; q < 4; ++q) {
    const __m512i row[4] = {load(4 * q), load(4 * q + 1), load(4 * q + 2), load(4 * q + 3)};
    if constexpr (kWords) {
      transpose_words(row, quads[q]);
    } else {
      transpose_pairs(row, quads[q]);
    }
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512i in[4] = {quads[0][j], quads[1][j], quads[2][j], quads[3][j]};
    __m512i out[4];
    transpose_lanes(in, out);
#pragma GCC unroll 4
    for (int l = 0; l < 4; ++l) visit(j, l, out[l]);
  }
}

/// Rows that lie `stride` bytes apart.
template <bool kWords, class Visit>
FATHOM_AVX512_INLINE void visit_tile(const std::uint8_t* rows, std::int64_t stride, Visit visit) {
  const std::uint8_t* const quad[4] = {rows, rows + 4 * stride, rows + 8 * stride, rows + 12 * stride};
  transpose_tile<kWords>([&](int r) { return _mm512_loadu_si512(quad[r / 4] + r % 4 * stride); }, visit);
}

/// Rows that begin at rows[r] + offset; without kFull, bytes outside of `mask` read as zero and are not
/// touched.
template <bool kWords, bool kFull, class Visit>
FATHOM_AVX512_INLINE void visit_tile(const std::uint8_t* const (&rows)[16], std::int64_t offset,
                                     __mmask64 mask, Visit visit) {
  transpose_tile<kWords>(
      [&](int r) {
        const std::uint8_t* bytes = rows[r] + offset;
        return kFull ? _mm512_loadu_si512(bytes) : _mm512_maskz_loadu_epi8(mask, bytes);
      },
      visit);
}

}  // namespace fathom::cpu
FATHOM_AVX512_BF16_END
#endif  // x86-64
