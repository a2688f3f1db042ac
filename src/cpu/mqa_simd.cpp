// The indexer's scores in f32 for every vector target. Compiled once for every one; see src/cpu/simd.hpp.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/mqa_simd.cpp"
#include <hwy/foreach_target.h>
// must follow foreach_target.h
#include <cstring>
#include <type_traits>

#include "cpu/mqa_impl.hpp"
#include "cpu/simd.hpp"

HWY_BEFORE_NAMESPACE();
namespace fathom::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using cpu::kMqaTileKeys;

// On AVX2 a tile of e4m3 keys is f16: half of the first cache instead of all of it.
constexpr bool halves(DType dtype, std::int64_t dim) {
  return HWY_TARGET == HWY_AVX2 && dtype == DType::f8e4m3 && dim % 16 == 0;
}

// e4m3 times `unit`.
HWY_INLINE void DecodeKey(const void* data, DType dtype, std::int64_t n, float unit, float* out) {
  if (dtype == DType::f32) {
    std::memcpy(out, data, static_cast<std::size_t>(n) * sizeof(float));
    return;
  }
  const hn::CappedTag<float, 16> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto* codes = static_cast<const std::uint8_t*>(data);
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    hn::StoreU(hn::Mul(DecodeF8(d, codes + i), hn::Set(d, unit)), d, out + i);
  for (; i < n; ++i) out[i] = f8e4m3_to_float(codes[i]) * unit;
}

void PackQuery(const cpu::MqaQuery& query, DType dtype, std::int64_t heads, std::int64_t dim, float* packed) {
  const auto* data = static_cast<const std::uint8_t*>(query.data);
  for (std::int64_t h = 0; h < heads; ++h)
    DecodeKey(data + h * query.head_stride * size_of(dtype), dtype, dim, kF8Unit, packed + h * dim);
}

#if HWY_TARGET == HWY_AVX2
// 16 rows of 16 bytes, transposed.
HWY_INLINE void TransposeBytes(hn::Vec<hn::Full128<std::uint8_t>> (&x)[16]) {
  const hn::Full128<std::uint8_t> d;
#pragma GCC unroll 4
  for (int stage = 0; stage < 4; ++stage) {  // each interleaves rows i and i + 8: four make a transposition
    hn::Vec<hn::Full128<std::uint8_t>> y[16];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      y[2 * i] = hn::InterleaveLower(d, x[i], x[i + 8]);
      y[2 * i + 1] = hn::InterleaveUpper(d, x[i], x[i + 8]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) x[i] = y[i];
  }
}

// Row d of the tile holds element d of the 64 keys through kF8Unit; dim is a multiple of 16.
void PackHalves(const cpu::MqaKeys& keys, std::int64_t dim, hwy::float16_t* tile) {
  const hn::Full128<std::uint8_t> d8;
  const auto* data = static_cast<const std::uint8_t*>(keys.data);
  for (std::int64_t first = 0; first < dim; first += 16) {
    HWY_ALIGN std::uint8_t codes[16][kMqaTileKeys];
    for (std::int64_t j = 0; j < kMqaTileKeys; j += 16) {
      hn::Vec<hn::Full128<std::uint8_t>> x[16];
      for (std::int64_t r = 0; r < 16; ++r)
        x[r] = j + r < keys.count ? hn::LoadU(d8, data + (j + r) * keys.stride + first) : hn::Zero(d8);
      TransposeBytes(x);
#pragma GCC unroll 16
      for (std::int64_t i = 0; i < 16; ++i) hn::Store(x[i], d8, codes[i] + j);
    }
    for (std::int64_t i = 0; i < 16; ++i) {
      for (std::int64_t j = 0; j < kMqaTileKeys; j += 16) {
        hn::Store(F8ToHalf<true>(codes[i] + j), hn::Full256<hwy::float16_t>(),
                  tile + (first + i) * kMqaTileKeys + j);
      }
    }
  }
}
#endif

// Row d of the tile holds element d of the 64 keys, e4m3 through kF8Unit.
void PackKeys(const cpu::MqaKeys& keys, DType dtype, std::int64_t dim, float* tile) {
#if HWY_TARGET == HWY_AVX2
  if (halves(dtype, dim)) return PackHalves(keys, dim, reinterpret_cast<hwy::float16_t*>(tile));
#endif
  constexpr std::int64_t kChunk = 128;  // elements decoded at a time
  HWY_ALIGN float rows[4][kChunk];
  const auto* data = static_cast<const std::uint8_t*>(keys.data);
  for (std::int64_t j = 0; j < kMqaTileKeys; j += 4) {
    for (std::int64_t first = 0; first < dim; first += kChunk) {
      const std::int64_t n = std::min(kChunk, dim - first);
      for (std::int64_t r = 0; r < 4; ++r) {
        if (j + r < keys.count) {
          DecodeKey(data + ((j + r) * keys.stride + first) * size_of(dtype), dtype, n, 1 / kF8Unit, rows[r]);
        } else {
          std::memset(rows[r], 0, sizeof rows[r]);
        }
      }
      float* to = tile + first * kMqaTileKeys + j;
      std::int64_t i = 0;
#if HWY_TARGET != HWY_SCALAR
      const hn::Full128<float> d4;
      for (; i + 4 <= n; i += 4) {
        const auto r0 = hn::Load(d4, rows[0] + i), r1 = hn::Load(d4, rows[1] + i);
        const auto r2 = hn::Load(d4, rows[2] + i), r3 = hn::Load(d4, rows[3] + i);
        const auto low02 = hn::InterleaveLower(d4, r0, r2), low13 = hn::InterleaveLower(d4, r1, r3);
        const auto high02 = hn::InterleaveUpper(d4, r0, r2), high13 = hn::InterleaveUpper(d4, r1, r3);
        hn::Store(hn::InterleaveLower(d4, low02, low13), d4, to + i * kMqaTileKeys);
        hn::Store(hn::InterleaveUpper(d4, low02, low13), d4, to + (i + 1) * kMqaTileKeys);
        hn::Store(hn::InterleaveLower(d4, high02, high13), d4, to + (i + 2) * kMqaTileKeys);
        hn::Store(hn::InterleaveUpper(d4, high02, high13), d4, to + (i + 3) * kMqaTileKeys);
      }
#endif
      for (; i < n; ++i)
        for (std::int64_t r = 0; r < 4; ++r) to[i * kMqaTileKeys + r] = rows[r][i];
    }
  }
}

using Tag = hn::CappedTag<float, 16>;

HWY_INLINE hn::Vec<Tag> LoadKeys(Tag d, const float* keys) { return hn::Load(d, keys); }
#if HWY_TARGET == HWY_AVX2
HWY_INLINE hn::Vec<Tag> LoadKeys(Tag d, const hwy::float16_t* keys) {
  return hn::PromoteTo(d, hn::Load(hn::Full128<hwy::float16_t>(), keys));
}
#endif

// kNumHeads heads against the 64 keys, kVectors vectors of keys at a time; adds to `sums`.
template <std::int64_t kNumHeads, std::int64_t kVectors, class Key>
HWY_INLINE void AddHeads(const float* HWY_RESTRICT query, const float* HWY_RESTRICT weights,
                         const Key* HWY_RESTRICT tile, std::int64_t dim, float* HWY_RESTRICT sums) {
  const Tag d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  for (std::int64_t j = 0; j < kMqaTileKeys; j += kVectors * lanes) {
    hn::Vec<Tag> dots[kNumHeads][kVectors];
#pragma GCC unroll 8
    for (auto& head : dots) {
#pragma GCC unroll 8
      for (auto& dot : head) dot = hn::Zero(d);
    }
    for (std::int64_t i = 0; i < dim; ++i) {
      hn::Vec<Tag> key[kVectors];
#pragma GCC unroll 8
      for (std::int64_t v = 0; v < kVectors; ++v)
        key[v] = LoadKeys(d, tile + i * kMqaTileKeys + j + v * lanes);
#pragma GCC unroll 8
      for (std::int64_t h = 0; h < kNumHeads; ++h) {
        const auto q = hn::Set(d, query[h * dim + i]);
#pragma GCC unroll 8
        for (std::int64_t v = 0; v < kVectors; ++v) dots[h][v] = hn::MulAdd(q, key[v], dots[h][v]);
      }
    }
#pragma GCC unroll 8
    for (std::int64_t v = 0; v < kVectors; ++v) {
      auto sum = hn::Load(d, sums + j + v * lanes);
#pragma GCC unroll 8
      for (std::int64_t h = 0; h < kNumHeads; ++h)
        sum = hn::MulAdd(hn::Set(d, weights[h]), hn::Max(dots[h][v], hn::Zero(d)), sum);
      hn::Store(sum, d, sums + j + v * lanes);
    }
  }
}

// Tiles of 16 sums in registers where there are 32 registers, else of 8 to 12.
template <class Key>
void SumsOf(const float* query, const float* weights, const Key* tile, std::int64_t heads, std::int64_t dim,
            float* sums) {
  constexpr bool kMany = HWY_TARGET == HWY_AVX3;
  std::memset(sums, 0, kMqaTileKeys * sizeof(float));
  std::int64_t h = 0;
  if (!kMany) {
    for (; h + 6 <= heads; h += 6) AddHeads<6, 2>(query + h * dim, weights + h, tile, dim, sums);
  }
  for (; h + 4 <= heads; h += 4) AddHeads<4, kMany ? 4 : 2>(query + h * dim, weights + h, tile, dim, sums);
  for (; h + 2 <= heads; h += 2) AddHeads<2, 4>(query + h * dim, weights + h, tile, dim, sums);
  if (h < heads) AddHeads<1, 4>(query + h * dim, weights + h, tile, dim, sums);
}

void Sums(const float* query, const float* weights, const float* tile, [[maybe_unused]] DType dtype,
          std::int64_t heads, std::int64_t dim, float* sums) {
#if HWY_TARGET == HWY_AVX2
  if (halves(dtype, dim))
    return SumsOf(query, weights, reinterpret_cast<const hwy::float16_t*>(tile), heads, dim, sums);
#endif
  SumsOf(query, weights, tile, heads, dim, sums);
}

}  // namespace fathom::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fathom {
HWY_EXPORT(PackQuery);
HWY_EXPORT(PackKeys);
HWY_EXPORT(Sums);

void cpu::mqa_pack_query_simd(const MqaQuery& query, DType dtype, std::int64_t heads, std::int64_t dim,
                              float* packed) {
  const auto pack = HWY_DYNAMIC_DISPATCH(PackQuery);
  pack(query, dtype, heads, dim, packed);
}
void cpu::mqa_pack_keys_simd(const MqaKeys& keys, DType dtype, std::int64_t dim, float* tile) {
  const auto pack = HWY_DYNAMIC_DISPATCH(PackKeys);
  pack(keys, dtype, dim, tile);
}
void cpu::mqa_sums_simd(const float* query, const float* weights, const float* tile, DType dtype,
                        std::int64_t heads, std::int64_t dim, float* sums) {
  const auto run = HWY_DYNAMIC_DISPATCH(Sums);
  run(query, weights, tile, dtype, heads, dim, sums);
}
}  // namespace fathom
#endif
