// The indexer's scores for AVX-512 with BF16 and VBMI.
#include "cpu/avx512_bf16.hpp"
#include "cpu/mqa_impl.hpp"

#ifdef FATHOM_HAS_AVX512_BF16_CODE
#include <algorithm>

FATHOM_AVX512_BF16_BEGIN
namespace fathom::cpu {
namespace {

constexpr std::int64_t kLanes = 16;
constexpr std::int64_t kTileVectors = kMqaTileKeys / kLanes;

// The pairs of a tile are in natural order: row i holds elements 2i and 2i + 1 of the 64 keys.
// kHeads heads against the tile; adds to `sums`.
template <int kHeads>
FATHOM_AVX512_INLINE void add_heads(const std::uint32_t* query, const float* weights,
                                    const std::uint32_t* tile, std::int64_t pairs,
                                    __m512 (&sums)[kTileVectors]) {
  __m512 dots[kHeads][kTileVectors];
#pragma GCC unroll 8
  for (int h = 0; h < kHeads; ++h) {
#pragma GCC unroll 4
    for (int v = 0; v < kTileVectors; ++v) dots[h][v] = _mm512_setzero_ps();
  }
  for (std::int64_t i = 0; i < pairs; ++i) {
    __m512i key[kTileVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kTileVectors; ++v) key[v] = _mm512_load_si512(tile + i * kMqaTileKeys + v * kLanes);
#pragma GCC unroll 8
    for (int h = 0; h < kHeads; ++h) {
      const __m512i q = broadcast_pair(query + h * pairs + i);
#pragma GCC unroll 4
      for (int v = 0; v < kTileVectors; ++v) dots[h][v] = dot_pairs(dots[h][v], q, key[v]);
    }
  }
#pragma GCC unroll 8
  for (int h = 0; h < kHeads; ++h) {
    const __m512 weight = _mm512_set1_ps(weights[h]);
#pragma GCC unroll 4
    for (int v = 0; v < kTileVectors; ++v)
      sums[v] = _mm512_fmadd_ps(weight, _mm512_max_ps(dots[h][v], _mm512_setzero_ps()), sums[v]);
  }
}

}  // namespace

void mqa_pack_query_avx512_bf16(const MqaQuery& query, std::int64_t heads, std::int64_t dim,
                                std::uint32_t* packed) {
  const F8Tables tables = load_f8_tables();
  // Quadwords such that the two halves that f8_to_bf16 makes of a 128-bit lane are neighbours in memory.
  const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
  for (std::int64_t h = 0; h < heads; ++h) {
    const auto* codes = static_cast<const std::uint8_t*>(query.data) + h * query.head_stride;
    for (std::int64_t i = 0; i < dim; i += 64) {
      __m512i first, second;
      f8_to_bf16(_mm512_permutexvar_epi64(order, _mm512_loadu_si512(codes + i)), tables, first, second);
      _mm512_storeu_si512(packed, first);
      _mm512_storeu_si512(packed + 16, second);
      packed += 32;
    }
  }
}

void mqa_pack_keys_avx512_bf16(const MqaKeys& keys, std::int64_t dim, std::uint32_t* tile) {
  const F8Tables tables = load_f8_tables();
  const auto* data = static_cast<const std::uint8_t*>(keys.data);
  for (std::int64_t group = 0; group < kTileVectors; ++group) {
    const std::uint8_t* rows[kLanes];
    if (group * kLanes >= keys.count) {
      for (std::int64_t i = 0; i < dim / 2; ++i)
        _mm512_store_si512(tile + i * kMqaTileKeys + group * kLanes, _mm512_setzero_si512());
      continue;
    }
    for (std::int64_t r = 0; r < kLanes; ++r)  // lanes beyond the last key repeat it
      rows[r] = data + std::min(group * kLanes + r, keys.count - 1) * keys.stride;
    for (std::int64_t offset = 0; offset < dim; offset += 64) {
      visit_tile<true, true>(rows, offset, ~__mmask64{0}, [&](int j, int l, __m512i words) {
        __m512i first, second;
        f8_to_bf16(words, tables, first, second);
        std::uint32_t* to = tile + (offset / 2 + 8 * l + 2 * j) * kMqaTileKeys + group * kLanes;
        _mm512_store_si512(to, first);
        _mm512_store_si512(to + kMqaTileKeys, second);
      });
    }
  }
}

void mqa_sums_avx512_bf16(const std::uint32_t* query, const float* weights, const std::uint32_t* tile,
                          std::int64_t heads, std::int64_t dim, float* sums) {
  const std::int64_t pairs = dim / 2;
  __m512 total[kTileVectors];
  for (auto& sum : total) sum = _mm512_setzero_ps();
  std::int64_t h = 0;
  for (; h + 6 <= heads; h += 6) add_heads<6>(query + h * pairs, weights + h, tile, pairs, total);
  for (; h + 2 <= heads; h += 2) add_heads<2>(query + h * pairs, weights + h, tile, pairs, total);
  if (h < heads) add_heads<1>(query + h * pairs, weights + h, tile, pairs, total);
  for (int v = 0; v < kTileVectors; ++v) _mm512_storeu_ps(sums + v * kLanes, total[v]);
}

}  // namespace fathom::cpu
FATHOM_AVX512_BF16_END
#else
namespace fathom::cpu {
// Never called: has_avx512_bf16() is false.
void mqa_pack_query_avx512_bf16(const MqaQuery&, std::int64_t, std::int64_t, std::uint32_t*) {}
void mqa_pack_keys_avx512_bf16(const MqaKeys&, std::int64_t, std::uint32_t*) {}
void mqa_sums_avx512_bf16(const std::uint32_t*, const float*, const std::uint32_t*, std::int64_t,
                          std::int64_t, float*) {}
}  // namespace fathom::cpu
#endif
