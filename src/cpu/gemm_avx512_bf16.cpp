// The matrix product core for AVX-512 with BF16 and VBMI: FP8 or bf16 weights, a lane is a column.
//
// 16 weight rows are transposed in registers, e4m3 becomes bf16 there, and one dot instruction adds a pair of
// k to 16 columns. Few rows: straight from the registers. Many rows: a panel of 64 columns x 128 k goes
// through L1. The order of a sum is the same in both: two chains per group of 128 (32 pairs each, order in
// tile_slot), total = fma(chain 0, scale, total), then total = fma(chain 1, scale, total).
#include "cpu/avx512_bf16.hpp"
#include "cpu/gemm_impl.hpp"

#ifdef FATHOM_HAS_AVX512_BF16_CODE
#include <algorithm>
#include <cstring>

FATHOM_AVX512_BF16_BEGIN
namespace fathom::cpu {
namespace {

constexpr std::int64_t kSlots = 64;          // pairs of one group
constexpr std::int64_t kChain = kSlots / 2;  // pairs of one chain
constexpr std::int64_t kLanes = 16;
constexpr std::int64_t kPanelColumns = 64;
constexpr std::int64_t kPanelRows = 6;   // x 4 vectors of columns = 24 sums in registers
constexpr std::int64_t kDirectRows = 4;  // up to here weights are not worth a panel
constexpr std::int64_t kRowBlock = 288;  // rows whose bf16 copies and totals are held at once

using Pairs = std::uint32_t;  // two bf16 of neighbouring k

// Rows of the left operand as bf16 pairs in slot order, and their scales: group-major.
struct PackedRows {
  Pairs* pairs = nullptr;   // [groups][rows][kSlots]
  float* scales = nullptr;  // [groups][rows]
  std::int64_t rows = 0;
};

// The pair of k (counted in pairs from the group's first k) that stands in slot s.
constexpr std::int64_t slot_pair(bool f8, std::int64_t slot) {
  const std::int64_t chain = slot / kChain;
  const std::int64_t step = slot % kChain;
  if (f8) {  // tiles of 64 k; in a tile j, then l; the chain is the second index of f8_to_bf16
    const std::int64_t l = step % 4;
    const std::int64_t j = step / 4 % 4;
    return step / 16 * 32 + 8 * l + 2 * j + chain;
  }
  const std::int64_t l = step % 2 * 2 + chain;  // tiles of 32 k; the chain is the parity of l
  const std::int64_t j = step / 2 % 4;
  return step / 8 * 16 + 4 * l + j;
}

struct SlotTable {
  alignas(64) std::int32_t index[kSlots]{};
};
// Indices for a two-source permutation: slots 16t..16t+15 come from the half t % 2 of the group's pairs.
// `f8` says what b is, `f8_rows` what a is.
constexpr SlotTable make_slot_table(bool f8, bool f8_rows) {
  SlotTable table;
  for (std::int64_t slot = 0; slot < kSlots; ++slot) {
    const std::int64_t pair = slot_pair(f8, slot) % 32;
    // f8_to_bf16 leaves the pairs of 64 codes as (lane, half): first holds 8l..8l+3, second 8l+4..8l+7.
    table.index[slot] =
        static_cast<std::int32_t>(f8_rows ? pair / 4 % 2 * 16 + pair / 8 * 4 + pair % 4 : pair);
  }
  return table;
}
template <bool kF8, bool kF8Rows>
inline constexpr SlotTable kSlotTable = make_slot_table(kF8, kF8Rows);

__mmask64 byte_mask(std::int64_t bytes) {
  return bytes >= 64 ? ~__mmask64{0} : (__mmask64{1} << std::max<std::int64_t>(bytes, 0)) - 1;
}

template <bool kF8, bool kF8Rows>
void pack_rows(const Gemm& p, std::int64_t first, const PackedRows& packed) {
  const F8Tables tables = load_f8_tables();
  const std::int64_t groups = scale_groups(p.k);
  const std::int64_t element = kF8Rows ? 1 : 2;
  for (std::int64_t i = 0; i < packed.rows; ++i) {
    const auto* row = static_cast<const std::uint8_t*>(p.a) + (first + i) * p.a_stride * element;
    for (std::int64_t g = 0; g < groups; ++g) {
      Pairs* out = packed.pairs + (g * packed.rows + i) * kSlots;
      const std::int64_t rest = (p.k - g * kScaleGroup) * element;  // bytes from here to the row's end
      const std::uint8_t* bytes = row + g * kScaleGroup * element;
      __m512i halves[2][2];
      for (int half = 0; half < 2; ++half) {
        if constexpr (kF8Rows) {
          const __m512i codes = _mm512_maskz_loadu_epi8(byte_mask(rest - 64 * half), bytes + 64 * half);
          f8_to_bf16(codes, tables, halves[half][0], halves[half][1]);
        } else {
          for (int quarter = 0; quarter < 2; ++quarter) {
            const std::int64_t at = 128 * half + 64 * quarter;
            halves[half][quarter] = _mm512_maskz_loadu_epi8(byte_mask(rest - at), bytes + at);
          }
        }
      }
      for (int t = 0; t < 4; ++t) {
        const __m512i index = _mm512_load_si512(kSlotTable<kF8, kF8Rows>.index + 16 * t);
        _mm512_store_si512(out + 16 * t,
                           _mm512_permutex2var_epi32(halves[t % 2][0], index, halves[t % 2][1]));
      }
      packed.scales[g * packed.rows + i] = scale_of(p.a_scale, first + i, g);
    }
  }
}

// The scales of columns [j, j + 16) in group g. Columns beyond n repeat the last.
__m512 column_scales(const Gemm& p, std::int64_t j, std::int64_t g) {
  const std::int64_t last = std::min(j + kLanes, p.n) - 1;
  if (p.b_scale.data == nullptr || (p.b_scale.rows != 1 && j / p.b_scale.rows == last / p.b_scale.rows)) {
    return _mm512_set1_ps(scale_of(p.b_scale, j, g));
  }
  alignas(64) float scales[kLanes];
  for (std::int64_t c = 0; c < kLanes; ++c) scales[c] = scale_of(p.b_scale, std::min(j + c, last), g);
  return _mm512_load_ps(scales);
}

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

// Pointers to 16 weight rows from j on; rows beyond the last repeat it.
void tile_rows(const Gemm& p, std::int64_t j, std::int64_t row_bytes, const std::uint8_t* (&rows)[16]) {
  for (std::int64_t r = 0; r < kLanes; ++r) {
    rows[r] = static_cast<const std::uint8_t*>(p.b) + std::min(j + r, p.n - 1) * row_bytes;
  }
}

// kRows rows times 16 columns, weights straight from the registers.
template <bool kF8, std::int64_t kRows>
void direct(const Gemm& p, const PackedRows& a, std::int64_t i0, std::int64_t begin, std::int64_t end) {
  const F8Tables tables = load_f8_tables();
  const std::int64_t element = kF8 ? 1 : 2;
  const std::int64_t row_bytes = p.b_stride * element;
  const std::int64_t k_bytes = p.k * element;
  const std::int64_t groups = scale_groups(p.k);
  constexpr std::int64_t kTiles = kF8 ? 2 : 4;  // tiles of 64 bytes in a group
  for (std::int64_t j = begin; j < end; j += kLanes) {
    const std::uint8_t* rows[16];
    tile_rows(p, j, row_bytes, rows);
    __m512 totals[kRows];
#pragma GCC unroll 8
    for (std::int64_t r = 0; r < kRows; ++r) totals[r] = _mm512_setzero_ps();
    for (std::int64_t g = 0; g < groups; ++g) {
      const Pairs* pairs = a.pairs + g * a.rows * kSlots;
      __m512 chains[2][kRows];
#pragma GCC unroll 8
      for (std::int64_t r = 0; r < kRows; ++r) chains[0][r] = chains[1][r] = _mm512_setzero_ps();
      for (std::int64_t t = 0; t < kTiles; ++t) {
        const std::int64_t offset = (g * kTiles + t) * 64;
        if (offset >= k_bytes) break;
        const auto visit = [&](int jj, int l, __m512i x) {
          if constexpr (kF8) {
            __m512i w[2];
            f8_to_bf16(x, tables, w[0], w[1]);
            const std::int64_t slot = 16 * t + 4 * jj + l;
#pragma GCC unroll 8
            for (std::int64_t r = 0; r < kRows; ++r) {
              chains[0][r] = dot_pairs(chains[0][r], w[0], broadcast_pair(pairs + r * kSlots + slot));
              chains[1][r] =
                  dot_pairs(chains[1][r], w[1], broadcast_pair(pairs + r * kSlots + kChain + slot));
            }
          } else {
            const std::int64_t slot = (l & 1) * kChain + 8 * t + 2 * jj + (l >> 1);
#pragma GCC unroll 8
            for (std::int64_t r = 0; r < kRows; ++r) {
              chains[l & 1][r] = dot_pairs(chains[l & 1][r], x, broadcast_pair(pairs + r * kSlots + slot));
            }
          }
        };
        if (offset + 64 <= k_bytes) [[likely]] {
          visit_tile<kF8, true>(rows, offset, 0, visit);
        } else {
          visit_tile<kF8, false>(rows, offset, byte_mask(k_bytes - offset), visit);
        }
      }
      const __m512 scales = column_scales(p, j, g);
#pragma GCC unroll 8
      for (std::int64_t r = 0; r < kRows; ++r) {
        const __m512 scale = _mm512_mul_ps(_mm512_set1_ps(a.scales[g * a.rows + r]), scales);
        totals[r] = _mm512_fmadd_ps(chains[0][r], scale, totals[r]);
        totals[r] = _mm512_fmadd_ps(chains[1][r], scale, totals[r]);
      }
    }
#pragma GCC unroll 8
    for (std::int64_t r = 0; r < kRows; ++r) store_columns(p, i0 + r, j, end, totals[r]);
  }
}

// One group of kVectors x 16 columns as bf16 pairs: panel[slot][vector].
template <bool kF8>
void pack_panel(const Gemm& p, std::int64_t j, std::int64_t vectors, std::int64_t g, __m512i* panel) {
  const F8Tables tables = load_f8_tables();
  const std::int64_t element = kF8 ? 1 : 2;
  const std::int64_t k_bytes = p.k * element;
  constexpr std::int64_t kTiles = kF8 ? 2 : 4;
  for (std::int64_t v = 0; v < vectors; ++v) {
    const std::uint8_t* rows[16];
    tile_rows(p, j + v * kLanes, p.b_stride * element, rows);
    for (std::int64_t t = 0; t < kTiles; ++t) {
      const std::int64_t offset = (g * kTiles + t) * 64;
      const auto visit = [&](int jj, int l, __m512i x) {
        if constexpr (kF8) {
          __m512i w[2];
          f8_to_bf16(x, tables, w[0], w[1]);
          const std::int64_t slot = 16 * t + 4 * jj + l;
          _mm512_store_si512(panel + slot * vectors + v, w[0]);
          _mm512_store_si512(panel + (slot + kChain) * vectors + v, w[1]);
        } else {
          const std::int64_t slot = (l & 1) * kChain + 8 * t + 2 * jj + (l >> 1);
          _mm512_store_si512(panel + slot * vectors + v, x);
        }
      };
      if (offset + 64 <= k_bytes) [[likely]] {
        visit_tile<kF8, true>(rows, offset, 0, visit);
      } else if (offset < k_bytes) {
        visit_tile<kF8, false>(rows, offset, byte_mask(k_bytes - offset), visit);
      } else {
        for (int jj = 0; jj < 4; ++jj) {
          for (int l = 0; l < 4; ++l) visit(jj, l, _mm512_setzero_si512());
        }
      }
    }
  }
}

// Adds one group to the totals of kRows x kVectors x 16 elements.
template <std::int64_t kRows, std::int64_t kVectors>
void tile(const Pairs* pairs, const float* a_scales, const __m512i* panel, const __m512* b_scales,
          float* totals) {
  for (std::int64_t chain = 0; chain < 2; ++chain) {
    __m512 sums[kRows][kVectors];
#pragma GCC unroll 8
    for (std::int64_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (std::int64_t v = 0; v < kVectors; ++v) sums[r][v] = _mm512_setzero_ps();
    }
    for (std::int64_t s = chain * kChain; s < (chain + 1) * kChain; ++s) {
      __m512i w[kVectors];
#pragma GCC unroll 8
      for (std::int64_t v = 0; v < kVectors; ++v) w[v] = _mm512_load_si512(panel + s * kVectors + v);
#pragma GCC unroll 8
      for (std::int64_t r = 0; r < kRows; ++r) {
        const __m512i x = broadcast_pair(pairs + r * kSlots + s);
#pragma GCC unroll 8
        for (std::int64_t v = 0; v < kVectors; ++v) sums[r][v] = dot_pairs(sums[r][v], w[v], x);
      }
    }
#pragma GCC unroll 8
    for (std::int64_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (std::int64_t v = 0; v < kVectors; ++v) {
        float* total = totals + (r * kVectors + v) * kLanes;
        const __m512 scale = _mm512_mul_ps(_mm512_set1_ps(a_scales[r]), b_scales[v]);
        _mm512_store_ps(total, _mm512_fmadd_ps(sums[r][v], scale, _mm512_load_ps(total)));
      }
    }
  }
}

using Tile = void (*)(const Pairs*, const float*, const __m512i*, const __m512*, float*);
template <std::int64_t kVectors>
constexpr Tile kTileOfRows[] = {nullptr,           tile<1, kVectors>, tile<2, kVectors>, tile<3, kVectors>,
                                tile<4, kVectors>, tile<5, kVectors>, tile<6, kVectors>};
constexpr const Tile* kTiles[] = {nullptr, kTileOfRows<1>, kTileOfRows<2>, kTileOfRows<3>, kTileOfRows<4>};

template <bool kF8>
void panels(const Gemm& p, const PackedRows& a, std::int64_t i0, std::int64_t begin, std::int64_t end,
            std::byte* memory) {
  const std::int64_t groups = scale_groups(p.k);
  auto* panel = reinterpret_cast<__m512i*>(memory);
  auto* totals = reinterpret_cast<float*>(memory + kSlots * kPanelColumns * 4);
  for (std::int64_t j = begin; j < end; j += kPanelColumns) {
    const std::int64_t vectors = std::min((end - j + kLanes - 1) / kLanes, kPanelColumns / kLanes);
    const Tile* tiles = kTiles[vectors];
    std::memset(totals, 0, static_cast<std::size_t>(a.rows * vectors * kLanes) * sizeof(float));
    for (std::int64_t g = 0; g < groups; ++g) {
      pack_panel<kF8>(p, j, vectors, g, panel);
      __m512 b_scales[kPanelColumns / kLanes];
      for (std::int64_t v = 0; v < vectors; ++v) b_scales[v] = column_scales(p, j + v * kLanes, g);
      for (std::int64_t i = 0; i < a.rows; i += kPanelRows) {
        tiles[std::min(kPanelRows, a.rows - i)](a.pairs + (g * a.rows + i) * kSlots,
                                                a.scales + g * a.rows + i, panel, b_scales,
                                                totals + i * vectors * kLanes);
      }
    }
    for (std::int64_t i = 0; i < a.rows; ++i) {
      for (std::int64_t v = 0; v < vectors; ++v) {
        store_columns(p, i0 + i, j + v * kLanes, end, _mm512_load_ps(totals + (i * vectors + v) * kLanes));
      }
    }
  }
}

template <bool kF8>
void columns(const Gemm& p, std::int64_t begin, std::int64_t end) {
  constexpr decltype(&direct<kF8, 1>) kDirect[] = {nullptr, direct<kF8, 1>, direct<kF8, 2>, direct<kF8, 3>,
                                                   direct<kF8, 4>};
  const std::int64_t groups = scale_groups(p.k);
  const std::int64_t blocks = (p.m + kRowBlock - 1) / kRowBlock;
  const std::int64_t row_block = (p.m + blocks - 1) / blocks;
  const std::int64_t pairs_bytes = groups * row_block * kSlots * 4;
  const std::int64_t scales_bytes = (groups * row_block * 4 + 63) / 64 * 64;
  const std::int64_t panel_bytes = kSlots * kPanelColumns * 4 + row_block * kPanelColumns * 4;
  std::byte* memory = gemm_scratch(pairs_bytes + scales_bytes + panel_bytes);
  PackedRows a{reinterpret_cast<Pairs*>(memory), reinterpret_cast<float*>(memory + pairs_bytes), 0};
  for (std::int64_t i0 = 0; i0 < p.m; i0 += row_block) {
    a.rows = std::min(row_block, p.m - i0);
    if (p.a_dtype == DType::f8e4m3) {
      pack_rows<kF8, true>(p, i0, a);
    } else {
      pack_rows<kF8, false>(p, i0, a);
    }
    if (a.rows <= kDirectRows) {
      kDirect[a.rows](p, a, i0, begin, end);
    } else {
      panels<kF8>(p, a, i0, begin, end, memory + pairs_bytes + scales_bytes);
    }
  }
}

}  // namespace

void gemm_columns_avx512_bf16(const Gemm& gemm, std::int64_t begin, std::int64_t end) {
  if (gemm.b_dtype == DType::f8e4m3) {
    columns<true>(gemm, begin, end);
  } else {
    columns<false>(gemm, begin, end);
  }
}

}  // namespace fathom::cpu
FATHOM_AVX512_BF16_END
#else
namespace fathom::cpu {
void gemm_columns_avx512_bf16(const Gemm& gemm, std::int64_t begin, std::int64_t end) {
  gemm_columns_simd(gemm, begin, end);
}
}  // namespace fathom::cpu
#endif
