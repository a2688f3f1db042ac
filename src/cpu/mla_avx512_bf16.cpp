// Latent attention for AVX-512 with BF16 and VBMI: both products with bf16 dots, sums in f32.
#include "cpu/avx512_bf16.hpp"
#include "cpu/mla.hpp"
#include "cpu/scratch.hpp"

#ifdef FATHOM_HAS_AVX512_BF16_CODE
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

FATHOM_AVX512_BF16_BEGIN
namespace fathom::cpu {
namespace {

constexpr std::int64_t kLanes = 16;
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr std::int64_t kStageKeys = 16;  // keys that are converted and scored at a time: they stay in L1
constexpr std::int64_t kTileHeads = 4;
constexpr std::int64_t kBlockVectors = kMlaBlock / kLanes;

FATHOM_AVX512_INLINE __m512i load_bf16(const std::uint16_t* x) { return _mm512_loadu_si512(x); }

// exp(x) for x <= 0, relative error below 2e-7; 0 for x < -87.
FATHOM_AVX512_INLINE __m512 exp_ps(__m512 x) {
  const __mmask16 underflow = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.0f), _CMP_LT_OQ);
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 p = _mm512_set1_ps(1.0f / 720);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 120));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 24));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 6));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  return _mm512_maskz_scalef_ps(_knot_mask16(underflow), p, n);
}

// The sums of the lanes of 16 vectors, x[4h + k], all in the same order; that of (h, k) goes to scores[h][k].
FATHOM_AVX512_INLINE void reduce_tile(const __m512 (&x)[16], float* scores) {
  __m512 quad[4];
#pragma GCC unroll 4
  for (int h = 0; h < 4; ++h) {
    const __m512 a =
        _mm512_add_ps(_mm512_unpacklo_ps(x[4 * h], x[4 * h + 1]), _mm512_unpackhi_ps(x[4 * h], x[4 * h + 1]));
    const __m512 b = _mm512_add_ps(_mm512_unpacklo_ps(x[4 * h + 2], x[4 * h + 3]),
                                   _mm512_unpackhi_ps(x[4 * h + 2], x[4 * h + 3]));
    const __m512d low = _mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b));
    const __m512d high = _mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b));
    quad[h] = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
  }
  const __m512 first = _mm512_add_ps(_mm512_shuffle_f32x4(quad[0], quad[1], 0x88),
                                     _mm512_shuffle_f32x4(quad[0], quad[1], 0xdd));
  const __m512 second = _mm512_add_ps(_mm512_shuffle_f32x4(quad[2], quad[3], 0x88),
                                      _mm512_shuffle_f32x4(quad[2], quad[3], 0xdd));
  const __m512 all =
      _mm512_add_ps(_mm512_shuffle_f32x4(first, second, 0x88), _mm512_shuffle_f32x4(first, second, 0xdd));
  _mm_storeu_ps(scores, _mm512_castps512_ps128(all));
  _mm_storeu_ps(scores + kMlaBlock, _mm512_extractf32x4_ps(all, 1));
  _mm_storeu_ps(scores + 2 * kMlaBlock, _mm512_extractf32x4_ps(all, 2));
  _mm_storeu_ps(scores + 3 * kMlaBlock, _mm512_extractf32x4_ps(all, 3));
}

// A u8 cache's latent stays without its scales: they multiply the partial sums of a group of 128 in the
// scores, and the softmax weights in the sums over entries. So conversion to bf16 is exact.
template <bool kScaled>
class MlaBf16 {
 public:
  explicit MlaBf16(const MlaHeads& task)
      : t_(task),
        dim_(task.lora + task.rope_dim),
        groups_(kScaled ? task.lora / 128 : 1),
        heads_(align_to(task.heads, kTileHeads)),
        width_(kScaled ? task.lora + 4 * groups_ + 2 * task.rope_dim : 2 * dim_) {
    const std::int64_t floats = heads_ * (task.lora + kMlaBlock) + groups_ * kMlaBlock + 3 * heads_;
    const std::int64_t pairs = groups_ * heads_ * kMlaBlock / 2;
    const std::int64_t halves = heads_ * dim_ + (kScaled ? kMlaBlock * dim_ : 0);
    auto* memory = thread_scratch<MlaHeads>(4 * (floats + pairs) + 2 * halves + 256);
    q_ = reinterpret_cast<std::uint16_t*>(memory);
    stage_ = q_ + heads_ * dim_;
    sums_ = reinterpret_cast<float*>(memory + align_to(2 * halves, 64));
    scores_ = sums_ + heads_ * task.lora;
    scales_ = scores_ + heads_ * kMlaBlock;
    pairs_ = reinterpret_cast<std::uint32_t*>(scales_ + groups_ * kMlaBlock);
    factor_ = reinterpret_cast<float*>(pairs_ + pairs);
    highest_ = factor_ + heads_;
    total_ = highest_ + heads_;
  }

  void run() {
    pack_queries();
    std::fill(total_, total_ + heads_, 0.0f);
    std::fill(factor_, factor_ + heads_, 0.0f);
    std::fill(highest_, highest_ + heads_, -kInfinity);
    for (std::int64_t j = 0; j < t_.count; j += kMlaBlock) {
      const std::int64_t n = std::min(kMlaBlock, t_.count - j);
      for (std::int64_t k = 0; k < n; k += kStageKeys) {
        stage(t_.slots + j + k, k, std::min(kStageKeys, n - k), t_.count - j - k);
        for (std::int64_t h = 0; h < heads_; h += kTileHeads)
          for (std::int64_t i = k; i < std::min(k + kStageKeys, n); i += 4) score_tile(h, i);
      }
      for (std::int64_t h = 0; h < t_.heads; ++h) softmax(h, n);
      for (std::int64_t i = 0; i < t_.lora; i += 64)
        for (std::int64_t h = 0; h < heads_; h += kTileHeads) value_tile(h, i, (n + 1) / 2, j == 0);
    }
    finish();
  }

 private:
  // bf16, in the order in which f8_to_bf16 leaves the latent of a staged entry.
  void pack_queries() const {
    for (std::int64_t h = 0; h < t_.heads; ++h) {
      std::uint16_t* to = q_ + h * dim_;
      for (std::int64_t i = 0; i < dim_; i += 32) {
        const std::int64_t from = h * t_.q_stride + i;
        if (t_.q_dtype == DType::f32) {
          const auto* x = static_cast<const float*>(t_.q) + from;
          const __m512bh bits = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + 16), _mm512_loadu_ps(x));
          _mm512_storeu_si512(to + i, reinterpret_cast<const __m512i&>(bits));
        } else {
          _mm512_storeu_si512(to + i, load_bf16(static_cast<const std::uint16_t*>(t_.q) + from));
        }
      }
      for (std::int64_t i = 0; kScaled && i < t_.lora; i += 64) {  // even 128-bit lanes, then odd ones
        const __m512i a = load_bf16(to + i);
        const __m512i b = load_bf16(to + i + 32);
        _mm512_storeu_si512(to + i, _mm512_shuffle_i64x2(a, b, 0x88));
        _mm512_storeu_si512(to + i + 32, _mm512_shuffle_i64x2(a, b, 0xdd));
      }
    }
    std::memset(q_ + t_.heads * dim_, 0, static_cast<std::size_t>(2 * (heads_ - t_.heads) * dim_));
  }

  // Fills rows_ (and scales_) of entries k .. k + n of the block; `ahead` entries of the list are left.
  void stage(const std::int32_t* slots, std::int64_t k, std::int64_t n, std::int64_t ahead) {
    const std::uint8_t* cache = t_.cache;  // locals: vector stores may alias members
    const std::int64_t entry_bytes = t_.entry_bytes;
    const std::int64_t width = width_;
    for (std::int64_t j = kStageKeys; j < std::min(2 * kStageKeys, ahead); ++j) {
      const std::uint8_t* next = cache + slots[j] * entry_bytes;
      for (std::int64_t byte = 0; byte < width; byte += 64)
        _mm_prefetch(reinterpret_cast<const char*>(next + byte), _MM_HINT_T0);
    }
    if constexpr (kScaled) {
      const F8Tables tables = load_f8_tables();
      std::uint16_t* row = stage_ + k * dim_;
      const std::int64_t lora = t_.lora;
      const std::int64_t dim = dim_;
      for (std::int64_t j = 0; j < n; ++j, row += dim) {
        const std::uint8_t* entry = cache + slots[j] * entry_bytes;
        rows_[k + j] = row;
        const std::uint8_t* scales = entry + lora;
        float* scale = scales_ + k + j;
        for (std::int64_t i = 0; i < lora; i += 128) {
#pragma GCC unroll 2
          for (std::int64_t half = i; half < i + 128; half += 64) {
            __m512i first, second;
            f8_to_bf16(_mm512_loadu_si512(entry + half), tables, first, second);
            _mm512_store_si512(row + half, first);
            _mm512_store_si512(row + half + 32, second);
          }
          std::memcpy(scale, scales, 4);
          scale += kMlaBlock;
          scales += 4;
        }
        for (std::int64_t i = lora; i < dim; i += 32) {
          _mm512_store_si512(row + i, _mm512_loadu_si512(scales));
          scales += 64;
        }
      }
    } else {
      for (std::int64_t j = 0; j < n; ++j)
        rows_[k + j] = reinterpret_cast<const std::uint16_t*>(cache + slots[j] * entry_bytes);
    }
    for (std::int64_t j = k + n; j % 4 != 0; ++j) rows_[j] = rows_[k + n - 1];  // copies; they get weight 0
  }

  // scores_[h][k ..] of four heads and four entries, without the softmax scale.
  FATHOM_AVX512_INLINE void score_tile(std::int64_t h0, std::int64_t k) const {
    const std::uint16_t* const x[4] = {rows_[k], rows_[k + 1], rows_[k + 2], rows_[k + 3]};
    const std::int64_t dim = dim_;
    const std::uint16_t* q = q_ + h0 * dim;
    __m512 part[16];
    if constexpr (kScaled) {
      alignas(64) float sums[16][kLanes];  // in memory: both would not fit into the registers
      const std::int64_t lora = t_.lora;
      const float* scale = scales_ + k;
      dots(q, dim, x, lora, dim, part);
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) _mm512_store_ps(sums[i], part[i]);
      for (std::int64_t i = 0; i < lora; i += 128, scale += kMlaBlock) {
        dots(q, dim, x, i, i + 128, part);
#pragma GCC unroll 16
        for (int j = 0; j < 16; ++j) {
          part[j] = _mm512_fmadd_ps(part[j], _mm512_set1_ps(scale[j % 4]), _mm512_load_ps(sums[j]));
          _mm512_store_ps(sums[j], part[j]);
        }
      }
    } else {
      dots(q, dim, x, 0, dim, part);
    }
    reduce_tile(part, scores_ + h0 * kMlaBlock + k);
  }

  // sums[4h + k] = the products of query h and entry k, a lane's share each, over elements [begin, end).
  FATHOM_AVX512_INLINE static void dots(const std::uint16_t* q, std::int64_t dim,
                                        const std::uint16_t* const (&x)[4], std::int64_t begin,
                                        std::int64_t end, __m512 (&sums)[16]) {
#pragma GCC unroll 16
    for (auto& sum : sums) sum = _mm512_setzero_ps();
    for (std::int64_t i = begin; i < end; i += 32) {
      __m512i key[4];
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) key[k] = load_bf16(x[k] + i);
#pragma GCC unroll 4
      for (int h = 0; h < 4; ++h) {
        const __m512i query = load_bf16(q + h * dim + i);
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) sums[4 * h + k] = dot_pairs(sums[4 * h + k], query, key[k]);
      }
    }
  }

  // Scores of head h become weights, as pairs of bf16 for every group; the sums so far shrink by factor_[h].
  void softmax(std::int64_t h, std::int64_t n) const {
    __m512 x[kBlockVectors];
    __m512 highest = _mm512_set1_ps(-kInfinity);
    for (std::int64_t v = 0; v < kBlockVectors; ++v) {
      const std::int64_t inside = std::clamp<std::int64_t>(n - v * kLanes, 0, kLanes);
      const auto mask = static_cast<__mmask16>((1u << inside) - 1);
      const __m512 score = _mm512_maskz_loadu_ps(mask, scores_ + h * kMlaBlock + v * kLanes);
      x[v] = _mm512_mask_mul_ps(_mm512_set1_ps(-kInfinity), mask, score, _mm512_set1_ps(t_.softmax_scale));
      highest = _mm512_max_ps(highest, x[v]);
    }
    const float next = std::max(highest_[h], _mm512_reduce_max_ps(highest));
    const float base = next == -kInfinity ? 0 : next;
    for (auto& weight : x) weight = exp_ps(_mm512_sub_ps(weight, _mm512_set1_ps(base)));
    const __m512 total = _mm512_add_ps(_mm512_add_ps(x[0], x[1]), _mm512_add_ps(x[2], x[3]));
    factor_[h] = _mm512_cvtss_f32(exp_ps(_mm512_set1_ps(highest_[h] - base)));
    total_[h] = std::fma(total_[h], factor_[h], _mm512_reduce_add_ps(total));
    highest_[h] = next;
    for (std::int64_t g = 0; g < groups_; ++g) {
      std::uint32_t* to = pairs_ + (g * heads_ + h) * (kMlaBlock / 2);
      for (std::int64_t v = 0; v < kBlockVectors; v += 2) {
        __m512 a = x[v], b = x[v + 1];
        if constexpr (kScaled) {
          // Beyond the list scales_ may hold anything, NaN too.
          const float* scales = scales_ + g * kMlaBlock + v * kLanes;
          a = _mm512_maskz_mul_ps(_mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_NEQ_UQ), a,
                                  _mm512_loadu_ps(scales));
          b = _mm512_maskz_mul_ps(_mm512_cmp_ps_mask(b, _mm512_setzero_ps(), _CMP_NEQ_UQ), b,
                                  _mm512_loadu_ps(scales + kLanes));
        }
        const __m512bh bits = _mm512_cvtne2ps_pbh(b, a);
        _mm512_storeu_si512(to + v * (kLanes / 2), reinterpret_cast<const __m512i&>(bits));
      }
    }
  }

  // Adds the entries' elements [i, i + 64), two entries at a time, to the sums of four heads, which hold them
  // in the order of unpacked pairs.
  FATHOM_AVX512_INLINE void value_tile(std::int64_t h0, std::int64_t i, std::int64_t pairs,
                                       bool first) const {
    __m512 sums[kTileHeads][4];
    float* to = sums_ + h0 * t_.lora + i;
#pragma GCC unroll 4
    for (int h = 0; h < kTileHeads; ++h) {
      const __m512 factor = _mm512_set1_ps(factor_[h0 + h]);
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) {
        sums[h][v] = first ? _mm512_setzero_ps()
                           : _mm512_mul_ps(factor, _mm512_loadu_ps(to + h * t_.lora + v * kLanes));
      }
    }
    const std::uint32_t* weights = pairs_ + ((kScaled ? i / 128 : 0) * heads_ + h0) * (kMlaBlock / 2);
    for (std::int64_t p = 0; p < pairs; ++p) {
      const std::uint16_t* even = rows_[2 * p] + i;
      const std::uint16_t* odd = rows_[2 * p + 1] + i;
      const __m512i a = load_bf16(even), b = load_bf16(odd);
      const __m512i c = load_bf16(even + 32), d = load_bf16(odd + 32);
      const __m512i value[4] = {_mm512_unpacklo_epi16(a, b), _mm512_unpackhi_epi16(a, b),
                                _mm512_unpacklo_epi16(c, d), _mm512_unpackhi_epi16(c, d)};
#pragma GCC unroll 4
      for (int h = 0; h < kTileHeads; ++h) {
        const __m512i weight = broadcast_pair(weights + h * (kMlaBlock / 2) + p);
#pragma GCC unroll 4
        for (int v = 0; v < 4; ++v) sums[h][v] = dot_pairs(sums[h][v], weight, value[v]);
      }
    }
#pragma GCC unroll 4
    for (int h = 0; h < kTileHeads; ++h) {
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) _mm512_storeu_ps(to + h * t_.lora + v * kLanes, sums[h][v]);
    }
  }

  void finish() const {
    for (std::int64_t h = 0; h < t_.heads; ++h) {
      const __m512 inverse = _mm512_set1_ps(mla_share(t_, h, highest_[h], total_[h]));
      for (std::int64_t i = 0; i < t_.lora; i += 64) {
        __m512i in[4], lanes[4];
        for (int v = 0; v < 4; ++v) {
          const float* sums = sums_ + h * t_.lora + i + v * kLanes;
          in[v] = t_.count == 0 ? _mm512_setzero_si512()
                                : _mm512_castps_si512(_mm512_mul_ps(_mm512_loadu_ps(sums), inverse));
        }
        if constexpr (kScaled) {
          // Lane l of in[v]: elements 16 l + 4 v ..; see f8_to_bf16.
          transpose_lanes(in, lanes);
        } else {
          // Lane l of in[v]: elements 8 l + 4 v .. for v < 2, and 32 more for v >= 2.
          const __m512i low = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
          const __m512i high = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
          for (int v = 0; v < 4; v += 2) {
            lanes[v] = _mm512_permutex2var_epi64(in[v], low, in[v + 1]);
            lanes[v + 1] = _mm512_permutex2var_epi64(in[v], high, in[v + 1]);
          }
        }
        for (int v = 0; v < 4; ++v) store(h * t_.out_stride + i + v * kLanes, _mm512_castsi512_ps(lanes[v]));
      }
    }
  }

  void store(std::int64_t at, __m512 value) const {
    if (t_.out_dtype == DType::f32) {
      _mm512_storeu_ps(static_cast<float*>(t_.out) + at, value);
    } else {
      const __m256bh bits = _mm512_cvtneps_pbh(value);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(static_cast<std::uint16_t*>(t_.out) + at),
                          reinterpret_cast<const __m256i&>(bits));
    }
  }

  const MlaHeads& t_;
  std::int64_t dim_, groups_;
  std::int64_t heads_;  // padded to fours
  std::int64_t width_;  // bytes of an entry
  std::uint16_t *q_, *stage_;
  float *sums_, *scores_, *scales_;
  std::uint32_t* pairs_;  // [groups][heads][entries / 2]
  float *factor_, *highest_, *total_;
  const std::uint16_t* rows_[kMlaBlock];
};

}  // namespace

void mla_heads_avx512_bf16(const MlaHeads& task) {
  if (task.cache_dtype == DType::u8) {
    MlaBf16<true>(task).run();
  } else {
    MlaBf16<false>(task).run();
  }
}

}  // namespace fathom::cpu
FATHOM_AVX512_BF16_END
#else
namespace fathom::cpu {
// Never called: has_avx512_bf16() is false.
void mla_heads_avx512_bf16(const MlaHeads&) {}
}  // namespace fathom::cpu
#endif
