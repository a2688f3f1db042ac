// The matrix product core for AVX-512 with BF16 and VBMI: FP8 or bf16 weights.
//
// The dot instruction adds a pair of neighbouring k in 16 lanes. The 64 pairs of a group of 128 k form four
// chains, pair p in chain p % 4, ascending; so a sum has one order everywhere:
//   total = fma((chain 0 + chain 2) + (chain 1 + chain 3), a_scale * b_scale, total), groups ascending.
// Up to 66 rows (direct, narrow): a vector holds 16 bytes of four weight rows, which are four columns times
// the four chains: little has to be moved to get there from rows as they lie. More rows (wide): a lane is a
// column, so that the chains are added up lane by lane; panels of 64 columns x 128 k are transposed into L1,
// the next while one is used.
#include "cpu/avx512_bf16.hpp"
#include "cpu/gemm_impl.hpp"

#ifdef FATHOM_HAS_AVX512_BF16_CODE
#include <algorithm>
#include <array>
#include <cstring>

FATHOM_AVX512_BF16_BEGIN
namespace fathom::cpu {
namespace {

constexpr std::int64_t kPairs = 64;  // of one group
constexpr std::int64_t kChains = 4;
constexpr std::int64_t kSteps = kPairs / kChains;  // of one chain
constexpr std::int64_t kLanes = 16;
constexpr std::int64_t kRowBlock = 288;  // rows whose bf16 copies and totals are held at once

constexpr std::int64_t kNarrowRows = 66;     // up to here the narrow form
constexpr std::int64_t kDirectRows = 4;      // up to here weights stay in registers
constexpr std::int64_t kNarrowTileRows = 6;  // x 4 vectors = 24 sums in registers
constexpr std::int64_t kAheadGroups = 6;     // how far ahead weights are fetched

constexpr std::int64_t kVectors = 4;  // of a panel: 64 columns
constexpr std::int64_t kPanelColumns = kVectors * kLanes;
constexpr std::int64_t kWideColumns = 8 * kPanelColumns;  // whose totals are held at once
constexpr std::int64_t kRunBytes = 384 << 10;             // of packed rows that stay in the second cache
constexpr std::int64_t kPanelStride =
    kPairs + 1;                            // one more, so that the vectors of a pair lie in different sets
constexpr std::int64_t kWideTileRows = 3;  // x 2 vectors x 4 chains = 24 sums in registers
constexpr std::int64_t kWideTileVectors = 2;
constexpr std::int64_t kOutputRows = 18;  // how far ahead output rows are fetched

template <bool kF8>
constexpr std::int64_t kGroupTiles = kF8 ? 2 : 4;  // tiles of 64 bytes in a group

using Pairs = std::uint32_t;  // two bf16 of neighbouring k

// Rows of the left operand as bf16, and their scales: group-major.
struct PackedRows {
  Pairs* pairs = nullptr;   // [groups][rows][kPairs]
  float* scales = nullptr;  // [groups][rows]
  std::int64_t rows = 0;
};

__mmask64 byte_mask(std::int64_t bytes) {
  return bytes >= 64 ? ~__mmask64{0} : (__mmask64{1} << std::max<std::int64_t>(bytes, 0)) - 1;
}

template <bool kF8Rows>
void pack_rows(const Gemm& p, std::int64_t first, std::int64_t begin, std::int64_t end,
               const PackedRows& packed) {
  const F8Tables tables = load_f8_tables();
  const __m512i low = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
  const __m512i high = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
  const std::int64_t groups = scale_groups(p.k);
  const std::int64_t element = kF8Rows ? 1 : 2;
  for (std::int64_t i = begin; i < end; ++i) {
    const auto* row = static_cast<const std::uint8_t*>(p.a) + (first + i) * p.a_stride * element;
    for (std::int64_t g = 0; g < groups; ++g) {
      Pairs* out = packed.pairs + (g * packed.rows + i) * kPairs;
      const std::int64_t rest = (p.k - g * kScaleGroup) * element;  // bytes from here to the row's end
      const std::uint8_t* bytes = row + g * kScaleGroup * element;
#pragma GCC unroll 4
      for (std::int64_t t = 0; t < kGroupTiles<kF8Rows>; ++t) {
        const __m512i x = _mm512_maskz_loadu_epi8(byte_mask(rest - 64 * t), bytes + 64 * t);
        if constexpr (kF8Rows) {
          __m512i half[2];
          f8_to_bf16(x, tables, half[0], half[1]);
          _mm512_store_si512(out + 32 * t, _mm512_permutex2var_epi64(half[0], low, half[1]));
          _mm512_store_si512(out + 32 * t + 16, _mm512_permutex2var_epi64(half[0], high, half[1]));
        } else {
          _mm512_store_si512(out + 16 * t, x);
        }
      }
      packed.scales[g * packed.rows + i] = scale_of(p.a_scale, first + i, g);
    }
  }
}

// The scales of columns [j, j + 16), group by group. Columns beyond n repeat the last.
class ColumnScales {
 public:
  ColumnScales(const Gemm& p, std::int64_t j) : p_(p), j_(j), last_(std::min(j + kLanes, p.n) - 1) {
    const GemmScale& scale = p.b_scale;
    if (scale.data == nullptr) {
      common_ = &one_;
    } else if (!scale.packed && scale.rows != 1 && j / scale.rows == last_ / scale.rows) {
      common_ = static_cast<const float*>(scale.data) + j / scale.rows * scale.row_stride;
      stride_ = scale.group_stride;
    }
  }
  FATHOM_AVX512_INLINE __m512 at(std::int64_t g) const {
    return common_ != nullptr ? _mm512_set1_ps(common_[g * stride_]) : gather(g);
  }

 private:
  __attribute__((noinline)) __m512 gather(std::int64_t g) const {
    alignas(64) float scales[kLanes];
    for (std::int64_t c = 0; c < kLanes; ++c) scales[c] = scale_of(p_.b_scale, std::min(j_ + c, last_), g);
    return _mm512_load_ps(scales);
  }

  const Gemm& p_;
  std::int64_t j_;
  std::int64_t last_;
  float one_ = 1;
  const float* common_ = nullptr;  // the scale that all columns share, if they do
  std::int64_t stride_ = 0;
};

void store_columns(const Gemm& p, std::int64_t i, std::int64_t j, std::int64_t end, __m512 total) {
  const auto mask = static_cast<__mmask16>(end - j >= kLanes ? 0xffff : (1u << (end - j)) - 1);
  if (p.out_dtype == DType::f32) {
    float* out = static_cast<float*>(p.out) + i * p.out_stride + j;
    if (p.accumulate) total = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, out), total);
    _mm512_mask_storeu_ps(out, mask, total);
    return;
  }
  auto* out = static_cast<std::uint16_t*>(p.out) + i * p.out_stride + j;
  if (p.accumulate) {
    const __m512i base = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, out));
    total = _mm512_add_ps(_mm512_castsi512_ps(_mm512_slli_epi32(base, 16)), total);
  }
  _mm256_mask_storeu_epi16(out, mask, reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(total)));
}

// Asks for the lines that columns from j on of row i will be written to, so that storing does not wait.
FATHOM_AVX512_INLINE void fetch_output(const Gemm& p, std::int64_t i, std::int64_t j, std::int64_t columns) {
  const std::int64_t size = size_of(p.out_dtype);
  const auto* row = static_cast<const std::uint8_t*>(p.out) + (i * p.out_stride + j) * size;
  for (std::int64_t byte = 0; byte < columns * size; byte += 64)
    asm volatile("prefetchw %0" : : "m"(row[byte]));
}

// Reads groups of 16 weight rows. Inside of the matrix they are read where they lie; at its edges, rows and k
// that do not exist are zero in a copy.
template <bool kF8>
class Weights {
 public:
  static constexpr std::int64_t kBytes = kScaleGroup * (kF8 ? 1 : 2);  // of a group in one row

  explicit Weights(const Gemm& p)
      : b_(static_cast<const std::uint8_t*>(p.b)),
        next_(static_cast<const std::uint8_t*>(p.next_b)),
        stride_(p.b_stride * (kF8 ? 1 : 2)),
        n_(p.n),
        bytes_(p.k * (kF8 ? 1 : 2)) {}

  struct Rows {
    const std::uint8_t* data;
    std::int64_t stride;
  };
  // Rows [j, j + 16) of group g.
  FATHOM_AVX512_INLINE Rows rows(std::int64_t j, std::int64_t g) {
    const std::int64_t offset = g * kBytes;
    if (j + kLanes > n_ || offset + kBytes > bytes_) [[unlikely]] {
      copy_edge(j, offset);
      return {edge_, kBytes};
    }
    return {b_ + j * stride_ + offset, stride_};
  }

  // Writes rows [j, j + 16) of group g as bf16, transposed: a vector per pair, a lane per row.
  FATHOM_AVX512_INLINE void transpose(std::int64_t j, std::int64_t g, __m512i* out) {
    const F8Tables tables = load_f8_tables();
    const Rows from = rows(j, g);
#pragma GCC unroll 4
    for (int t = 0; t < kGroupTiles<kF8>; ++t) {
      visit_tile<kF8>(from.data + 64 * t, from.stride, [&](int i, int l, __m512i x) {
        if constexpr (kF8) {
          __m512i w[2];
          f8_to_bf16(x, tables, w[0], w[1]);
          _mm512_store_si512(out + 32 * t + 8 * l + 2 * i, w[0]);
          _mm512_store_si512(out + 32 * t + 8 * l + 2 * i + 1, w[1]);
        } else {
          _mm512_store_si512(out + 16 * t + 4 * l + i, x);
        }
      });
    }
  }

  // Fetches lines [first, last) of group g of rows j.., two (bf16: four) to a row, into the second cache. A
  // row that does not begin on a line has one line more, which is the last of the group before.
  FATHOM_AVX512_INLINE void fetch_lines(std::int64_t j, std::int64_t g, std::int64_t first,
                                        std::int64_t last) const {
    constexpr std::int64_t kLines = kBytes / 64;
    for (std::int64_t line = first; line < last; ++line) {
      const std::int64_t row = std::min(j + line / kLines, n_ - 1);
      const std::int64_t byte = std::min(g * kBytes + line % kLines * 64 + 63, bytes_ - 1);
      _mm_prefetch(reinterpret_cast<const char*>(b_ + row * stride_ + byte), _MM_HINT_T0);
    }
  }

  // The 16 rows that follow `groups` groups after (j, g), along the rows, then in the next 16 rows, then in
  // the next weights; where there are none, something that is at hand already.
  Rows ahead(std::int64_t j, std::int64_t g, std::int64_t groups) const {
    std::int64_t offset = (g + groups) * kBytes;
    while (offset >= bytes_) {
      offset -= (bytes_ + kBytes - 1) / kBytes * kBytes;
      j += kLanes;
    }
    const std::uint8_t* from = b_;
    if (j >= n_ && next_ != nullptr) {
      from = next_;
      j -= n_;
    }
    if (j + kLanes > n_ || offset + kBytes > bytes_) return {edge_, 0};
    return {from + j * stride_ + offset, stride_};
  }

 private:
  void copy_edge(std::int64_t j, std::int64_t offset) {
    for (std::int64_t r = 0; r < kLanes; ++r) {
      for (std::int64_t at = 0; at < kBytes; at += 64) {
        const __mmask64 mask = j + r < n_ ? byte_mask(bytes_ - offset - at) : 0;
        _mm512_store_si512(edge_ + r * kBytes + at,
                           _mm512_maskz_loadu_epi8(mask, b_ + (j + r) * stride_ + offset + at));
      }
    }
  }

  const std::uint8_t* b_;
  const std::uint8_t* next_;
  std::int64_t stride_;
  std::int64_t n_;
  std::int64_t bytes_;  // of one row
  alignas(64) std::uint8_t edge_[kLanes * kBytes];
};

FATHOM_AVX512_INLINE __m512i four_pairs(const Pairs* pairs) {
  return _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(pairs)));
}

// Hides where a pointer comes from: what is read through it stays behind this line. Else the compiler loads
// and computes addresses early, and runs out of registers.
template <class T>
FATHOM_AVX512_INLINE void opaque(const T*& pointer) {
  asm volatile("" : "+r"(pointer));
}

// A vector of a group of 16 weight rows holds rows v, 4 + v, 8 + v and 12 + v, one to a 128-bit lane; so lane
// l of the sums of vector v belongs to column 4l + v. Reads 64 bytes of each row: quarters[q] has bytes 16q
// ...
FATHOM_AVX512_INLINE void load_quarters(const std::uint8_t* row, std::int64_t stride,
                                        __m512i (&quarters)[4]) {
  const __m512i in[4] = {_mm512_loadu_si512(row), _mm512_loadu_si512(row + 4 * stride),
                         _mm512_loadu_si512(row + 8 * stride), _mm512_loadu_si512(row + 12 * stride)};
  transpose_lanes(in, quarters);
}

// Where the four rows of the vectors 0..3 are, in the form that an address takes as it is: else the compiler
// spends an instruction and a register on every row.
struct VectorRows {
  const std::uint8_t* first[4];
  std::int64_t stride4;
  std::int64_t stride12;

  FATHOM_AVX512_INLINE VectorRows(const std::uint8_t* rows, std::int64_t stride)
      : first{rows, rows + stride, rows + 2 * stride, rows + 3 * stride},
        stride4(4 * stride),
        stride12(12 * stride) {
    asm("" : "+r"(first[0]), "+r"(first[1]), "+r"(first[2]), "+r"(first[3]), "+r"(stride4), "+r"(stride12));
  }
  FATHOM_AVX512_INLINE const std::uint8_t* row(int v, int l) const {
    return first[v] + (l == 0 ? 0 : l == 1 ? stride4 : l == 2 ? 2 * stride4 : stride12);
  }
};

// The same for 32 bytes of each row, which is half as many registers.
FATHOM_AVX512_INLINE void load_two_quarters(const VectorRows& rows, int v, std::int64_t byte,
                                            __m512i (&quarters)[2]) {
  const auto load = [&](int l) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows.row(v, l) + byte));
  };
  const __m512i low = _mm512_inserti64x4(_mm512_castsi256_si512(load(0)), load(1), 1);
  const __m512i high = _mm512_inserti64x4(_mm512_castsi256_si512(load(2)), load(3), 1);
  quarters[0] = _mm512_shuffle_i32x4(low, high, 0x88);
  quarters[1] = _mm512_shuffle_i32x4(low, high, 0xdd);
}

// A quarter is one step of the four chains, or two steps if it is e4m3.
template <bool kF8>
constexpr int kQuarterSteps = kF8 ? 2 : 1;
template <bool kF8>
FATHOM_AVX512_INLINE void decode_quarter(__m512i quarter, const F8Tables& tables,
                                         __m512i (&steps)[kQuarterSteps<kF8>]) {
  if constexpr (kF8) {
    f8_to_bf16(quarter, tables, steps[0], steps[1]);
  } else {
    steps[0] = quarter;
  }
}

// Fetches a line. Memory does not take bursts, so this stays where it is written.
FATHOM_AVX512_INLINE void fetch(const std::uint8_t& byte) { asm volatile("prefetcht0 %0" : : "m"(byte)); }

// The same, and moves on.
FATHOM_AVX512_INLINE void fetch_line(const std::uint8_t*& line, std::int64_t stride) {
  asm volatile("prefetcht0 (%0)" : "+r"(line));
  line += stride;
}

// Sums of the vectors 0..3 of a group, columns times chains, as 16 columns.
FATHOM_AVX512_INLINE __m512 add_chains(const __m512 (&sums)[4]) {
  const __m512 sum01 =
      _mm512_add_ps(_mm512_unpacklo_ps(sums[0], sums[1]), _mm512_unpackhi_ps(sums[0], sums[1]));
  const __m512 sum23 =
      _mm512_add_ps(_mm512_unpacklo_ps(sums[2], sums[3]), _mm512_unpackhi_ps(sums[2], sums[3]));
  const __m512d a = _mm512_castps_pd(sum01);
  const __m512d b = _mm512_castps_pd(sum23);
  return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)),
                       _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
}

// Few rows: weights go from their rows through registers into the sums.
template <bool kF8, std::int64_t kRows>
void direct_columns(const Gemm& p, const PackedRows& a, std::int64_t i0, std::int64_t begin,
                    std::int64_t end) {
  const std::int64_t groups = scale_groups(p.k);
  const F8Tables tables = load_f8_tables();
  Weights<kF8> weights(p);
  for (std::int64_t j = begin; j < end; j += kLanes) {
    for (std::int64_t r = 0; r < kRows; ++r) fetch_output(p, i0 + r, j, kLanes);
    const ColumnScales b_scales(p, j);
    __m512 totals[kRows];
#pragma GCC unroll 4
    for (std::int64_t r = 0; r < kRows; ++r) totals[r] = _mm512_setzero_ps();
    for (std::int64_t g = 0; g < groups; ++g) {
      const Pairs* pairs = a.pairs + g * kRows * kPairs;
      __m512 sums[kRows][4];
#pragma GCC unroll 4
      for (std::int64_t r = 0; r < kRows; ++r) {
        sums[r][0] = sums[r][1] = sums[r][2] = sums[r][3] = _mm512_setzero_ps();
      }
      const auto [from, stride] = weights.rows(j, g);
      const auto [next, next_stride] = weights.ahead(j, g, kAheadGroups);
      const VectorRows rows(from, stride);
      const std::uint8_t* line = next;
      const std::int64_t fours[4] = {0, 4 * next_stride, 8 * next_stride, 12 * next_stride};
#pragma GCC unroll 8
      for (int h = 0; h < 2 * kGroupTiles<kF8>; ++h) {
        __m512i quarters[4][2];
#pragma GCC unroll 4
        for (int v = 0; v < 4; ++v) load_two_quarters(rows, v, 32 * h, quarters[v]);
#pragma GCC unroll 2
        for (int q = 0; q < 2; ++q) {
          __m512i w[4][kQuarterSteps<kF8>];
#pragma GCC unroll 4
          for (int v = 0; v < 4; ++v) {
            fetch(line[64 * (h / 2) + fours[v]]);
            decode_quarter<kF8>(quarters[v][q], tables, w[v]);
          }
          line += h % 2 == 1 && q == 1 ? -3 * next_stride : next_stride;  // four lines a quarter, in 16 rows
          opaque(line);
          opaque(pairs);
#pragma GCC unroll 2
          for (int s = 0; s < kQuarterSteps<kF8>; ++s) {
#pragma GCC unroll 4
            for (std::int64_t r = 0; r < kRows; ++r) {
              const __m512i x =
                  four_pairs(pairs + r * kPairs + kChains * (kQuarterSteps<kF8> * (2 * h + q) + s));
#pragma GCC unroll 4
              for (int v = 0; v < 4; ++v) sums[r][v] = dot_pairs(sums[r][v], w[v][s], x);
            }
          }
        }
      }
      const __m512 b_scale = b_scales.at(g);
#pragma GCC unroll 4
      for (std::int64_t r = 0; r < kRows; ++r) {
        const __m512 scale = _mm512_mul_ps(_mm512_set1_ps(a.scales[g * kRows + r]), b_scale);
        totals[r] = _mm512_fmadd_ps(add_chains(sums[r]), scale, totals[r]);
      }
    }
#pragma GCC unroll 4
    for (std::int64_t r = 0; r < kRows; ++r) store_columns(p, i0 + r, j, end, totals[r]);
  }
}

// Writes one group of 16 weight rows as bf16 in the order in which narrow tiles read it, [step][vector], a
// bit at a time: that is work for other units of the core than the tiles', which do it as they go.
template <bool kF8>
class Stager {
 public:
  static constexpr std::uint32_t kUnits = 4 * kGroupTiles<kF8>;  // a unit: 64 bytes of a vector's four rows

  // Of group g of rows [j, j + 16).
  Stager(Weights<kF8>& weights, std::int64_t j, std::int64_t g, __m512i* out)
      : rows_(weights.rows(j, g)), ahead_(weights.ahead(j, g, kAheadGroups)), out_(out) {}

  FATHOM_AVX512_INLINE void next_unit() {
    const F8Tables tables = load_f8_tables();
    const std::uint32_t v = unit_ / kGroupTiles<kF8>;
    const std::uint32_t t = unit_ % kGroupTiles<kF8>;
    ++unit_;
    __m512i quarters[4];
    load_quarters(rows_.data + v * rows_.stride + 64 * t, rows_.stride, quarters);
    const std::uint8_t* line = ahead_.data + v * ahead_.stride + 64 * t;
    __m512i* out = out_ + 16 * kQuarterSteps<kF8> * t + v;
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q) {
      fetch_line(line, 4 * ahead_.stride);
      __m512i w[kQuarterSteps<kF8>];
      decode_quarter<kF8>(quarters[q], tables, w);
#pragma GCC unroll 2
      for (int s = 0; s < kQuarterSteps<kF8>; ++s)
        _mm512_store_si512(out + 4 * (kQuarterSteps<kF8> * q + s), w[s]);
    }
  }

 private:
  typename Weights<kF8>::Rows rows_;
  typename Weights<kF8>::Rows ahead_;
  __m512i* out_;
  std::uint32_t unit_ = 0;
};

// When tiles are to stage: before the first step and every `period` steps from there, across tiles.
struct StagePlan {
  std::int64_t period;
  std::int64_t due = 0;  // steps from the present tile's first
};

// Adds one group to the totals of kRows x 16 elements, and stages.
template <bool kF8, std::int64_t kRows>
void narrow_tile(const __m512i* staged, const Pairs* pairs, const float* a_scales, __m512 b_scale,
                 float* totals, Stager<kF8>& stager, StagePlan& plan) {
  __m512 sums[kRows][4];
#pragma GCC unroll 8
  for (std::int64_t r = 0; r < kRows; ++r) {
    sums[r][0] = sums[r][1] = sums[r][2] = sums[r][3] = _mm512_setzero_ps();
  }
  std::int64_t due = plan.due;
  for (std::int64_t s = 0; s < kSteps; ++s) {
    if (s == due) {
      stager.next_unit();
      due += plan.period;
    }
    const __m512i w[4] = {_mm512_load_si512(staged + 4 * s), _mm512_load_si512(staged + 4 * s + 1),
                          _mm512_load_si512(staged + 4 * s + 2), _mm512_load_si512(staged + 4 * s + 3)};
#pragma GCC unroll 8
    for (std::int64_t r = 0; r < kRows; ++r) {
      const __m512i x = four_pairs(pairs + r * kPairs + kChains * s);
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) sums[r][v] = dot_pairs(sums[r][v], w[v], x);
    }
  }
  plan.due = due - kSteps;
#pragma GCC unroll 8
  for (std::int64_t r = 0; r < kRows; ++r) {
    const __m512 scale = _mm512_mul_ps(_mm512_set1_ps(a_scales[r]), b_scale);
    const __m512 total = _mm512_load_ps(totals + r * kLanes);
    _mm512_store_ps(totals + r * kLanes, _mm512_fmadd_ps(add_chains(sums[r]), scale, total));
  }
}

template <bool kF8>
using NarrowTile = void (*)(const __m512i*, const Pairs*, const float*, __m512, float*, Stager<kF8>&,
                            StagePlan&);
template <bool kF8>
constexpr NarrowTile<kF8> kNarrowTiles[kNarrowTileRows + 1] = {nullptr,
                                                               narrow_tile<kF8, 1>,
                                                               narrow_tile<kF8, 2>,
                                                               narrow_tile<kF8, 3>,
                                                               narrow_tile<kF8, 4>,
                                                               narrow_tile<kF8, 5>,
                                                               narrow_tile<kF8, 6>};

struct NarrowMemory {
  __m512i staged[2][kSteps * 4];  // [step][vector]; one is used while the next is written
  alignas(64) float totals[kNarrowRows * kLanes];
};

template <bool kF8>
void narrow_columns(const Gemm& p, const PackedRows& a, std::int64_t i0, std::int64_t begin, std::int64_t end,
                    NarrowMemory& memory) {
  const std::int64_t groups = scale_groups(p.k);
  const std::int64_t tiles = (a.rows + kNarrowTileRows - 1) / kNarrowTileRows;
  const std::int64_t period = kSteps * tiles / Stager<kF8>::kUnits;
  std::int64_t starts[kNarrowRows / kNarrowTileRows + 1];
  for (std::int64_t tile = 0; tile <= tiles; ++tile) starts[tile] = a.rows * tile / tiles;
  Weights<kF8> weights(p);
  Stager<kF8> first(weights, begin, 0, memory.staged[0]);
  for (std::uint32_t unit = 0; unit < Stager<kF8>::kUnits; ++unit) first.next_unit();
  int current = 0;
  for (std::int64_t j = begin; j < end; j += kLanes) {
    const ColumnScales b_scales(p, j);
    std::memset(memory.totals, 0, static_cast<std::size_t>(a.rows * kLanes) * sizeof(float));
    for (std::int64_t g = 0; g < groups; ++g, current ^= 1) {
      const bool last = g == groups - 1;
      const bool more = !last || j + kLanes < end;
      Stager<kF8> stager(weights, last && more ? j + kLanes : j, last ? 0 : g + 1,
                         memory.staged[current ^ 1]);
      StagePlan plan{.period = period, .due = more ? 0 : kSteps * tiles};
      const __m512 b_scale = b_scales.at(g);
      std::int64_t fetched = 0;  // rows of the output
      for (std::int64_t tile = 0; tile < tiles; ++tile) {
        const std::int64_t i = starts[tile];
        const std::int64_t to = starts[tile + 1];
        for (const std::int64_t ahead = std::min(a.rows, i + kOutputRows); last && fetched < ahead; ++fetched)
          fetch_output(p, i0 + fetched, j, kLanes);
        kNarrowTiles<kF8>[to - i](memory.staged[current], a.pairs + (g * a.rows + i) * kPairs,
                                  a.scales + g * a.rows + i, b_scale, memory.totals + i * kLanes, stager,
                                  plan);
        for (std::int64_t r = i; last && r < to; ++r)
          store_columns(p, i0 + r, j, end, _mm512_load_ps(memory.totals + r * kLanes));
      }
    }
  }
}

// One group of up to 64 columns as bf16 pairs, and its scales.
struct Panel {
  __m512i weights[kVectors * kPanelStride];  // [vector][pair]
  __m512 scales[kVectors];
};

// Adds one group to the totals of kRows x kWidth x 16 elements, from vector `first` of the panel on.
template <std::int64_t kRows, std::int64_t kWidth>
void wide_tile(const Pairs* pairs, const float* a_scales, const Panel& panel, std::int64_t first,
               float* totals) {
  __m512 sums[kChains][kRows][kWidth];
#pragma GCC unroll 4
  for (std::int64_t c = 0; c < kChains; ++c) {
#pragma GCC unroll 8
    for (std::int64_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (std::int64_t v = 0; v < kWidth; ++v) sums[c][r][v] = _mm512_setzero_ps();
    }
  }
  const __m512i* weights = panel.weights + first * kPanelStride;
  for (std::int64_t s = 0; s < kSteps; ++s) {
#pragma GCC unroll 4
    for (std::int64_t c = 0; c < kChains; ++c) {
      const std::int64_t pair = kChains * s + c;
      __m512i w[kWidth];
#pragma GCC unroll 8
      for (std::int64_t v = 0; v < kWidth; ++v) w[v] = _mm512_load_si512(weights + v * kPanelStride + pair);
#pragma GCC unroll 8
      for (std::int64_t r = 0; r < kRows; ++r) {
        const __m512i x = broadcast_pair(pairs + r * kPairs + pair);
#pragma GCC unroll 8
        for (std::int64_t v = 0; v < kWidth; ++v) sums[c][r][v] = dot_pairs(sums[c][r][v], w[v], x);
      }
    }
  }
#pragma GCC unroll 8
  for (std::int64_t r = 0; r < kRows; ++r) {
    const __m512 a_scale = _mm512_set1_ps(a_scales[r]);
#pragma GCC unroll 8
    for (std::int64_t v = 0; v < kWidth; ++v) {
      float* total = totals + (r * kVectors + first + v) * kLanes;
      const __m512 scale = _mm512_mul_ps(a_scale, panel.scales[first + v]);
      const __m512 sum = _mm512_add_ps(_mm512_add_ps(sums[0][r][v], sums[2][r][v]),
                                       _mm512_add_ps(sums[1][r][v], sums[3][r][v]));
      _mm512_store_ps(total, _mm512_fmadd_ps(sum, scale, _mm512_load_ps(total)));
    }
  }
}

using WideTile = void (*)(const Pairs*, const float*, const Panel&, std::int64_t, float*);
constexpr WideTile kWideTiles[kWideTileVectors + 1][kWideTileRows + 1] = {
    {},
    {nullptr, wide_tile<1, 1>, wide_tile<2, 1>, wide_tile<3, 1>},
    {nullptr, wide_tile<1, 2>, wide_tile<2, 2>, wide_tile<3, 2>}};

struct WideMemory {
  Panel panels[2];                                     // one is used while the next is written
  alignas(64) float totals[kRowBlock * kWideColumns];  // [panel][row][64]
};

// The order in which panels are used: ranges of kWideColumns columns; in a range, runs of groups whose left
// operand stays in the second cache; in a run, panels of 64 columns; in a panel, the run's groups.
struct PanelOrder {
  std::int64_t end;        // columns
  std::int64_t groups;     // in all
  std::int64_t run;        // groups of a run
  std::int64_t range;      // first column of the range
  std::int64_t first = 0;  // group of the run
  std::int64_t j = range;
  std::int64_t g = 0;

  bool done() const { return range >= end; }
  std::int64_t range_end() const { return std::min(end, range + kWideColumns); }
  std::int64_t vectors() const { return std::min((end - j + kLanes - 1) / kLanes, kVectors); }
  bool range_starts() const { return g == 0 && j == range; }
  PanelOrder next() const {
    PanelOrder next = *this;
    if (++next.g < std::min(first + run, groups)) return next;
    next.g = first;
    if ((next.j += kPanelColumns) < range_end()) return next;
    next.j = range;
    next.g = next.first = first + run;
    if (next.first < groups) return next;
    next.j = next.range = range_end();
    next.g = next.first = 0;
    return next;
  }
};

template <bool kF8>
void wide_columns(const Gemm& p, const PackedRows& a, std::int64_t i0, std::int64_t begin, std::int64_t end,
                  WideMemory& memory) {
  const std::int64_t groups = scale_groups(p.k);
  const std::int64_t calls = (a.rows + kWideTileRows - 1) / kWideTileRows;
  Weights<kF8> weights(p);
  const auto write = [&](const PanelOrder& at, std::int64_t v, Panel& panel) {
    weights.transpose(at.j + v * kLanes, at.g, panel.weights + v * kPanelStride);
    panel.scales[v] = ColumnScales(p, at.j + v * kLanes).at(at.g);
  };
  PanelOrder at{.end = end,
                .groups = groups,
                .run = std::max<std::int64_t>(kRunBytes / (a.rows * kPairs * 4), 4),
                .range = begin};
  for (std::int64_t v = 0; v < at.vectors(); ++v) write(at, v, memory.panels[0]);
  for (int current = 0; !at.done(); current ^= 1) {
    if (at.range_starts()) {
      const std::int64_t panels = (at.range_end() - at.range + kPanelColumns - 1) / kPanelColumns;
      std::memset(memory.totals, 0,
                  static_cast<std::size_t>(panels * a.rows * kPanelColumns) * sizeof(float));
    }
    const PanelOrder next = at.next();
    const PanelOrder fetch = next.done() ? next : next.next();
    const std::int64_t to_write = next.done() ? 0 : next.vectors();
    const std::int64_t lines = fetch.done() ? 0 : kPanelColumns * Weights<kF8>::kBytes / 64;
    const std::int64_t vectors = at.vectors();
    const Panel& panel = memory.panels[current];
    float* totals = memory.totals + (at.j - at.range) * a.rows;
    const bool last = at.g == groups - 1;
    std::int64_t written = 0;
    std::int64_t fetched = 0;  // rows of the output
    for (std::int64_t call = 1; call <= calls; ++call) {
      const std::int64_t i = (call - 1) * kWideTileRows;
      weights.fetch_lines(fetch.j, fetch.g, lines * (call - 1) / calls, lines * call / calls);
      const std::int64_t rows = std::min(kWideTileRows, a.rows - i);
      if (last) {
        const std::int64_t ahead = std::min(a.rows, i + kOutputRows);
        for (; fetched < ahead; ++fetched) fetch_output(p, i0 + fetched, at.j, vectors * kLanes);
      }
      for (std::int64_t v = 0; v < vectors; v += kWideTileVectors) {
        kWideTiles[std::min(kWideTileVectors, vectors - v)][rows](a.pairs + (at.g * a.rows + i) * kPairs,
                                                                  a.scales + at.g * a.rows + i, panel, v,
                                                                  totals + i * kPanelColumns);
      }
      for (std::int64_t r = i; last && r < i + rows; ++r) {
        for (std::int64_t v = 0; v < vectors; ++v) {
          store_columns(p, i0 + r, at.j + v * kLanes, end,
                        _mm512_load_ps(totals + r * kPanelColumns + v * kLanes));
        }
      }
      // The writing is spread between the tiles, because its work is for other units of the core than theirs.
      for (; written * calls < to_write * call; ++written) write(next, written, memory.panels[current ^ 1]);
    }
    at = next;
  }
}

union Memory {
  NarrowMemory narrow;
  WideMemory wide;
};

std::int64_t packed_bytes(const Gemm& gemm, std::int64_t rows) {
  return scale_groups(gemm.k) * rows * (kPairs * 4 + 4);
}

PackedRows packed_rows(const Gemm& gemm, std::int64_t rows, std::byte* packed) {
  auto* pairs = reinterpret_cast<Pairs*>(packed);
  return {pairs, reinterpret_cast<float*>(pairs + scale_groups(gemm.k) * rows * kPairs), rows};
}

void pack(const Gemm& gemm, std::int64_t first, std::int64_t rows, std::int64_t begin, std::int64_t end,
          std::byte* packed) {
  const PackedRows a = packed_rows(gemm, rows, packed);
  if (gemm.a_dtype == DType::bf16) {
    pack_rows<false>(gemm, first, begin, end, a);
  } else {
    pack_rows<true>(gemm, first, begin, end, a);
  }
}

template <bool kF8>
void columns_of(const Gemm& gemm, const PackedRows& a, std::int64_t first, std::int64_t begin,
                std::int64_t end) {
  if (gemm.k == 0) {
    for (std::int64_t i = 0; i < a.rows; ++i) {
      for (std::int64_t j = begin; j < end; j += kLanes)
        store_columns(gemm, first + i, j, end, _mm512_setzero_ps());
    }
    return;
  }
  auto* memory = reinterpret_cast<Memory*>(gemm_scratch(static_cast<std::int64_t>(sizeof(Memory))));
  if (a.rows <= kDirectRows) {
    constexpr auto direct = std::array{direct_columns<kF8, 1>, direct_columns<kF8, 2>, direct_columns<kF8, 3>,
                                       direct_columns<kF8, 4>};
    direct[static_cast<std::size_t>(a.rows - 1)](gemm, a, first, begin, end);
  } else if (a.rows <= kNarrowRows) {
    narrow_columns<kF8>(gemm, a, first, begin, end, memory->narrow);
  } else {
    wide_columns<kF8>(gemm, a, first, begin, end, memory->wide);
  }
}

void columns(const Gemm& gemm, std::int64_t first, std::int64_t rows, const std::byte* packed,
             std::int64_t begin, std::int64_t end) {
  const PackedRows a = packed_rows(gemm, rows, const_cast<std::byte*>(packed));
  if (gemm.b_dtype == DType::f8e4m3) {
    columns_of<true>(gemm, a, first, begin, end);
  } else {
    columns_of<false>(gemm, a, first, begin, end);
  }
}

}  // namespace

extern const GemmKernel gemm_kernel_avx512_bf16;
const GemmKernel gemm_kernel_avx512_bf16 = {kRowBlock, 20, 150, packed_bytes, pack, columns};

}  // namespace fathom::cpu
FATHOM_AVX512_BF16_END
#else
namespace fathom::cpu {
extern const GemmKernel gemm_kernel_avx512_bf16;
const GemmKernel gemm_kernel_avx512_bf16 = {};  // never chosen
}  // namespace fathom::cpu
#endif
