// The matrix product core for AVX-512 with BF16 and VBMI: FP8 or bf16 weights, a lane is a column.
//
// 16 weight rows are transposed in registers, e4m3 becomes bf16, and one dot instruction adds a pair of k to
// 16 columns. A group of 128 k is 64 pairs in two chains of 32 (order in slot_pair), so a sum has one order
// everywhere:
//   total = fma(chain 0 + chain 1, a_scale * b_scale, total), groups ascending.
// Few rows (narrow): memory decides, and it likes 16 streams; 16 columns at a time go through a small stage
// in L1. Many rows (wide): arithmetic decides; panels of 64 columns x 128 k in L1, the next written while one
// is used.
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
constexpr std::int64_t kRowBlock = 288;  // rows whose bf16 copies and totals are held at once

constexpr std::int64_t kNarrowRows = 24;      // up to here the narrow form
constexpr std::int64_t kNarrowTileRows = 12;  // x 2 chains = 24 sums in registers
constexpr std::int64_t kRawRows = 5;          // up to here e4m3 is staged as it is and converted on use
constexpr std::int64_t kMaxUnits = 4;         // groups whose chains run side by side where rows give too few
constexpr std::int64_t kAheadGroups = 8;      // how far ahead weights are fetched

constexpr std::int64_t kVectors = 4;  // of a panel: 64 columns
constexpr std::int64_t kPanelColumns = kVectors * kLanes;
constexpr std::int64_t kWideColumns = 8 * kPanelColumns;  // whose totals are held at once
constexpr std::int64_t kRunBytes = 384 << 10;             // of packed rows that stay in the second cache
constexpr std::int64_t kPanelStride =
    kSlots + 1;                            // one more, so that the vectors of a slot lie in different sets
constexpr std::int64_t kWideTileRows = 3;  // x 4 vectors x 2 chains = 24 sums in registers

template <bool kF8>
constexpr std::int64_t kGroupTiles = kF8 ? 2 : 4;  // tiles of 64 bytes in a group

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
void pack_rows(const Gemm& p, std::int64_t first, std::int64_t begin, std::int64_t end,
               const PackedRows& packed) {
  const F8Tables tables = load_f8_tables();
  const std::int64_t groups = scale_groups(p.k);
  const std::int64_t element = kF8Rows ? 1 : 2;
  for (std::int64_t i = begin; i < end; ++i) {
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

// Reads groups of 16 weight rows. Inside of the matrix they are read where they lie; at its edges, rows and k
// that do not exist are zero in a copy.
template <bool kF8>
class Weights {
 public:
  static constexpr std::int64_t kBytes = kScaleGroup * (kF8 ? 1 : 2);  // of a group in one row

  explicit Weights(const Gemm& p)
      : b_(static_cast<const std::uint8_t*>(p.b)),
        stride_(p.b_stride * (kF8 ? 1 : 2)),
        n_(p.n),
        bytes_(p.k * (kF8 ? 1 : 2)) {}

  std::int64_t stride() const { return stride_; }

  // Writes rows [j, j + 16) of group g, transposed. Raw e4m3: f8_to_bf16(out[s]) gives the pairs of slots s
  // and s + 32; else out[slot] holds the pairs of the slot.
  template <bool kRaw>
  FATHOM_AVX512_INLINE void stage(std::int64_t j, std::int64_t g, __m512i* out) {
    const std::int64_t offset = g * kBytes;
    const std::uint8_t* rows = b_ + j * stride_ + offset;
    std::int64_t stride = stride_;
    if (j + kLanes > n_ || offset + kBytes > bytes_) [[unlikely]] {
      copy_edge(j, offset);
      rows = edge_;
      stride = kBytes;
    }
    const F8Tables tables = load_f8_tables();
#pragma GCC unroll 4
    for (int t = 0; t < kGroupTiles<kF8>; ++t) {
      visit_tile<kF8>(rows + 64 * t, stride, [&](int i, int l, __m512i x) {
        if constexpr (kF8 && kRaw) {
          _mm512_store_si512(out + 16 * t + 4 * i + l, x);
        } else if constexpr (kF8) {
          __m512i w[2];
          f8_to_bf16(x, tables, w[0], w[1]);
          _mm512_store_si512(out + 16 * t + 4 * i + l, w[0]);
          _mm512_store_si512(out + 16 * t + 4 * i + l + kChain, w[1]);
        } else {
          _mm512_store_si512(out + (l & 1) * kChain + 8 * t + 2 * i + (l >> 1), x);
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

  // Where the 16 rows lie that follow `groups` groups after (j, g), along the rows and then in the next 16
  // rows; null if that is beyond the end.
  const std::uint8_t* ahead(std::int64_t j, std::int64_t g, std::int64_t groups) const {
    std::int64_t offset = (g + groups) * kBytes;
    while (offset >= bytes_) {
      offset -= (bytes_ + kBytes - 1) / kBytes * kBytes;
      j += kLanes;
    }
    return j + kLanes <= n_ && offset + kBytes <= bytes_ ? b_ + j * stride_ + offset : nullptr;
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
  std::int64_t stride_;
  std::int64_t n_;
  std::int64_t bytes_;  // of one row
  alignas(64) std::uint8_t edge_[kLanes * kBytes];
};

// What a narrow tile works on: kUnits staged groups, each with its rows' pairs, scales and totals. The units
// are groups of the same 16 columns (one set of totals), or one group of different columns (one set of
// pairs).
struct NarrowUnits {
  const __m512i* staged = nullptr;  // kSlots apart
  const Pairs* pairs = nullptr;
  std::int64_t pairs_step = 0;  // from unit to unit
  const float* a_scales = nullptr;
  std::int64_t a_scales_step = 0;
  const __m512* b_scales = nullptr;  // one per unit
  float* totals = nullptr;           // [rows][16]
  std::int64_t totals_step = 0;
  // 16 rows per unit of weights to fetch for later. That is spread over the arithmetic: memory does not take
  // bursts.
  const std::uint8_t* const* fetch = nullptr;
  std::int64_t fetch_stride = 0;
};

template <bool kF8, std::int64_t kRows, std::int64_t kUnits>
void narrow_tile(const NarrowUnits& units) {
  constexpr bool kRaw = kF8 && kRows <= kRawRows;
  const F8Tables tables = load_f8_tables();
  __m512 sums[kUnits][2][kRows];
#pragma GCC unroll 4
  for (std::int64_t u = 0; u < kUnits; ++u) {
#pragma GCC unroll 12
    for (std::int64_t r = 0; r < kRows; ++r) sums[u][0][r] = sums[u][1][r] = _mm512_setzero_ps();
  }
  const std::uint8_t* fetch[kUnits];
#pragma GCC unroll 4
  for (std::int64_t u = 0; u < kUnits; ++u) fetch[u] = units.fetch[u];
  for (std::int64_t s = 0; s < kChain; ++s) {
    if (s == kLanes) {
#pragma GCC unroll 4
      for (std::int64_t u = 0; u < kUnits; ++u) fetch[u] += (kF8 ? 64 : 128) - kLanes * units.fetch_stride;
    }
#pragma GCC unroll 4
    for (std::int64_t u = 0; u < kUnits; ++u) {
      _mm_prefetch(reinterpret_cast<const char*>(fetch[u]), _MM_HINT_T0);
      if constexpr (!kF8) _mm_prefetch(reinterpret_cast<const char*>(fetch[u] + 64), _MM_HINT_T0);
      fetch[u] += units.fetch_stride;
      __m512i w[2];
      if constexpr (kRaw) {
        __m512i codes = _mm512_load_si512(units.staged + u * kSlots + s);
        asm("" : "+v"(codes));  // else GCC reads it from memory three times
        f8_to_bf16(codes, tables, w[0], w[1]);
      } else {
        w[0] = _mm512_load_si512(units.staged + u * kSlots + s);
        w[1] = _mm512_load_si512(units.staged + u * kSlots + kChain + s);
      }
      const Pairs* pairs = units.pairs + u * units.pairs_step + s;
#pragma GCC unroll 12
      for (std::int64_t r = 0; r < kRows; ++r) {
        sums[u][0][r] = dot_broadcast(sums[u][0][r], w[0], pairs + r * kSlots);
        sums[u][1][r] = dot_broadcast(sums[u][1][r], w[1], pairs + r * kSlots + kChain);
      }
    }
  }
#pragma GCC unroll 4
  for (std::int64_t u = 0; u < kUnits; ++u) {
#pragma GCC unroll 12
    for (std::int64_t r = 0; r < kRows; ++r) {
      float* total = units.totals + u * units.totals_step + r * kLanes;
      const __m512 scale =
          _mm512_mul_ps(_mm512_set1_ps(units.a_scales[u * units.a_scales_step + r]), units.b_scales[u]);
      const __m512 sum = _mm512_add_ps(sums[u][0][r], sums[u][1][r]);
      _mm512_store_ps(total, _mm512_fmadd_ps(sum, scale, _mm512_load_ps(total)));
    }
  }
}

using NarrowTile = void (*)(const NarrowUnits&);
// [rows][units]; few rows have too few chains to hide the latency of the dot product, so they take more
// units.
template <bool kF8>
constexpr NarrowTile kNarrowTiles[kNarrowTileRows + 1][kMaxUnits + 1] = {
    {},
    {nullptr, narrow_tile<kF8, 1, 1>, narrow_tile<kF8, 1, 2>, narrow_tile<kF8, 1, 3>, narrow_tile<kF8, 1, 4>},
    {nullptr, narrow_tile<kF8, 2, 1>, narrow_tile<kF8, 2, 2>, narrow_tile<kF8, 2, 3>, narrow_tile<kF8, 2, 4>},
    {nullptr, narrow_tile<kF8, 3, 1>, narrow_tile<kF8, 3, 2>},
    {nullptr, narrow_tile<kF8, 4, 1>, narrow_tile<kF8, 4, 2>},
    {nullptr, narrow_tile<kF8, 5, 1>, narrow_tile<kF8, 5, 2>},
    {nullptr, narrow_tile<kF8, 6, 1>},
    {nullptr, narrow_tile<kF8, 7, 1>},
    {nullptr, narrow_tile<kF8, 8, 1>},
    {nullptr, narrow_tile<kF8, 9, 1>},
    {nullptr, narrow_tile<kF8, 10, 1>},
    {nullptr, narrow_tile<kF8, 11, 1>},
    {nullptr, narrow_tile<kF8, 12, 1>}};
constexpr std::int64_t units_at_once(std::int64_t rows) { return rows <= 2 ? 4 : rows <= kRawRows ? 2 : 1; }

struct NarrowMemory {
  __m512i staged[kMaxUnits * kSlots];
  __m512 scales[kMaxUnits];
  alignas(64) float totals[kMaxUnits * kNarrowRows * kLanes];
};

// kRaw as narrow_tile has it for these rows.
template <bool kF8, bool kRaw>
void narrow_columns(const Gemm& p, const PackedRows& a, std::int64_t i0, std::int64_t begin, std::int64_t end,
                    NarrowMemory& memory) {
  const std::int64_t groups = scale_groups(p.k);
  const std::int64_t tiles = (a.rows + kNarrowTileRows - 1) / kNarrowTileRows;
  const std::int64_t tile_rows = (a.rows + tiles - 1) / tiles;
  // With one group there is nothing to run side by side but columns.
  const std::int64_t blocks = groups == 1 ? units_at_once(tile_rows) : 1;
  const std::int64_t at_once = groups == 1 ? 1 : units_at_once(tile_rows);
  Weights<kF8> weights(p);
  for (std::int64_t j = begin; j < end; j += blocks * kLanes) {
    const std::int64_t columns = std::min(blocks, (end - j + kLanes - 1) / kLanes);  // in vectors
    std::memset(memory.totals, 0, static_cast<std::size_t>(columns * a.rows * kLanes) * sizeof(float));
    for (std::int64_t g = 0; g < groups; g += at_once) {
      const std::int64_t units = blocks > 1 ? columns : std::min(at_once, groups - g);
      const std::uint8_t* fetch[kMaxUnits];
      std::int64_t fetch_stride = weights.stride();
      for (std::int64_t u = 0; u < units; ++u) {
        const std::int64_t column = blocks > 1 ? j + u * kLanes : j;
        const std::int64_t group = blocks > 1 ? g : g + u;
        weights.template stage<kRaw>(column, group, memory.staged + u * kSlots);
        memory.scales[u] = ColumnScales(p, column).at(group);
        fetch[u] = weights.ahead(column, group, kAheadGroups);
        // What is at hand already costs next to nothing.
        if (fetch[u] == nullptr || fetch_stride == 0) {
          fetch_stride = 0;
          fetch[u] = reinterpret_cast<const std::uint8_t*>(memory.staged);
        }
      }
      for (std::int64_t i = 0; i < a.rows; i += tile_rows) {
        kNarrowTiles<kF8>[std::min(tile_rows, a.rows - i)][units](
            {.staged = memory.staged,
             .pairs = a.pairs + (g * a.rows + i) * kSlots,
             .pairs_step = blocks > 1 ? 0 : a.rows * kSlots,
             .a_scales = a.scales + g * a.rows + i,
             .a_scales_step = blocks > 1 ? 0 : a.rows,
             .b_scales = memory.scales,
             .totals = memory.totals + i * kLanes,
             .totals_step = blocks > 1 ? a.rows * kLanes : 0,
             .fetch = fetch,
             .fetch_stride = fetch_stride});
      }
    }
    for (std::int64_t u = 0; u < columns; ++u) {
      for (std::int64_t i = 0; i < a.rows; ++i) {
        store_columns(p, i0 + i, j + u * kLanes, end,
                      _mm512_load_ps(memory.totals + (u * a.rows + i) * kLanes));
      }
    }
  }
}

// One group of up to 64 columns as bf16 pairs, and its scales.
struct Panel {
  __m512i weights[kVectors * kPanelStride];  // [vector][slot]
  __m512 scales[kVectors];
};

// Adds one group to the totals of kRows x kWidth x 16 elements.
template <std::int64_t kRows, std::int64_t kWidth>
void wide_tile(const Pairs* pairs, const float* a_scales, const Panel& panel, float* totals) {
  __m512 sums[2][kRows][kWidth];
#pragma GCC unroll 8
  for (std::int64_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (std::int64_t v = 0; v < kWidth; ++v) sums[0][r][v] = sums[1][r][v] = _mm512_setzero_ps();
  }
  for (std::int64_t s = 0; s < kChain; ++s) {
#pragma GCC unroll 2
    for (std::int64_t c = 0; c < 2; ++c) {
      __m512i w[kWidth];
#pragma GCC unroll 8
      for (std::int64_t v = 0; v < kWidth; ++v) {
        w[v] = _mm512_load_si512(panel.weights + v * kPanelStride + c * kChain + s);
      }
#pragma GCC unroll 8
      for (std::int64_t r = 0; r < kRows; ++r) {
        const __m512i x = broadcast_pair(pairs + r * kSlots + c * kChain + s);
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
      float* total = totals + (r * kVectors + v) * kLanes;
      const __m512 scale = _mm512_mul_ps(a_scale, panel.scales[v]);
      const __m512 sum = _mm512_add_ps(sums[0][r][v], sums[1][r][v]);
      _mm512_store_ps(total, _mm512_fmadd_ps(sum, scale, _mm512_load_ps(total)));
    }
  }
}

using WideTile = void (*)(const Pairs*, const float*, const Panel&, float*);
constexpr WideTile kWideTiles[kVectors + 1][kWideTileRows + 1] = {
    {},
    {nullptr, wide_tile<1, 1>, wide_tile<2, 1>, wide_tile<3, 1>},
    {nullptr, wide_tile<1, 2>, wide_tile<2, 2>, wide_tile<3, 2>},
    {nullptr, wide_tile<1, 3>, wide_tile<2, 3>, wide_tile<3, 3>},
    {nullptr, wide_tile<1, 4>, wide_tile<2, 4>, wide_tile<3, 4>}};

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
    weights.template stage<false>(at.j + v * kLanes, at.g, panel.weights + v * kPanelStride);
    panel.scales[v] = ColumnScales(p, at.j + v * kLanes).at(at.g);
  };
  PanelOrder at{.end = end,
                .groups = groups,
                .run = std::max<std::int64_t>(kRunBytes / (a.rows * kSlots * 4), 4),
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
    std::int64_t written = 0;
    for (std::int64_t call = 1; call <= calls; ++call) {
      const std::int64_t i = (call - 1) * kWideTileRows;
      weights.fetch_lines(fetch.j, fetch.g, lines * (call - 1) / calls, lines * call / calls);
      kWideTiles[vectors][std::min(kWideTileRows, a.rows - i)](a.pairs + (at.g * a.rows + i) * kSlots,
                                                               a.scales + at.g * a.rows + i, panel,
                                                               totals + i * kPanelColumns);
      // The writing is spread between the tiles, because its work is for other units of the core than theirs.
      for (; written * calls < to_write * call; ++written) write(next, written, memory.panels[current ^ 1]);
    }
    if (at.g == groups - 1) {
      for (std::int64_t i = 0; i < a.rows; ++i) {
        for (std::int64_t v = 0; v < vectors; ++v) {
          store_columns(p, i0 + i, at.j + v * kLanes, end,
                        _mm512_load_ps(totals + i * kPanelColumns + v * kLanes));
        }
      }
    }
    at = next;
  }
}

union Memory {
  NarrowMemory narrow;
  WideMemory wide;
};

std::int64_t packed_bytes(const Gemm& gemm, std::int64_t rows) {
  return scale_groups(gemm.k) * rows * (kSlots * 4 + 4);
}

PackedRows packed_rows(const Gemm& gemm, std::int64_t rows, std::byte* packed) {
  auto* pairs = reinterpret_cast<Pairs*>(packed);
  return {pairs, reinterpret_cast<float*>(pairs + scale_groups(gemm.k) * rows * kSlots), rows};
}

void pack(const Gemm& gemm, std::int64_t first, std::int64_t rows, std::int64_t begin, std::int64_t end,
          std::byte* packed) {
  const PackedRows a = packed_rows(gemm, rows, packed);
  if (gemm.b_dtype == DType::bf16) {
    pack_rows<false, false>(gemm, first, begin, end, a);
  } else if (gemm.a_dtype == DType::bf16) {
    pack_rows<true, false>(gemm, first, begin, end, a);
  } else {
    pack_rows<true, true>(gemm, first, begin, end, a);
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
  if (a.rows <= kRawRows) {
    narrow_columns<kF8, true>(gemm, a, first, begin, end, memory->narrow);
  } else if (a.rows <= kNarrowRows) {
    narrow_columns<kF8, false>(gemm, a, first, begin, end, memory->narrow);
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
const GemmKernel gemm_kernel_avx512_bf16 = {kRowBlock, packed_bytes, pack, columns};

}  // namespace fathom::cpu
FATHOM_AVX512_BF16_END
#else
namespace fathom::cpu {
extern const GemmKernel gemm_kernel_avx512_bf16;
const GemmKernel gemm_kernel_avx512_bf16 = {};  // never chosen
}  // namespace fathom::cpu
#endif
