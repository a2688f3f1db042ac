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

HWY_INLINE void DecodeKey(const void* data, DType dtype, std::int64_t n, float* out) {
  if (dtype == DType::f32) {
    std::memcpy(out, data, static_cast<std::size_t>(n) * sizeof(float));
    return;
  }
  const hn::CappedTag<float, 16> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto* codes = static_cast<const std::uint8_t*>(data);
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes) hn::StoreU(DecodeF8(d, codes + i), d, out + i);
  for (; i < n; ++i) out[i] = f8e4m3_to_float(codes[i]);
}

void PackQuery(const cpu::MqaQuery& query, DType dtype, std::int64_t heads, std::int64_t dim, float* packed) {
  const auto* data = static_cast<const std::uint8_t*>(query.data);
  for (std::int64_t h = 0; h < heads; ++h)
    DecodeKey(data + h * query.head_stride * size_of(dtype), dtype, dim, packed + h * dim);
}

// Row d of the tile holds element d of the 64 keys.
void PackKeys(const cpu::MqaKeys& keys, DType dtype, std::int64_t dim, float* tile) {
  constexpr std::int64_t kChunk = 128;  // elements decoded at a time
  HWY_ALIGN float rows[4][kChunk];
  const auto* data = static_cast<const std::uint8_t*>(keys.data);
  for (std::int64_t j = 0; j < kMqaTileKeys; j += 4) {
    for (std::int64_t first = 0; first < dim; first += kChunk) {
      const std::int64_t n = std::min(kChunk, dim - first);
      for (std::int64_t r = 0; r < 4; ++r) {
        if (j + r < keys.count) {
          DecodeKey(data + ((j + r) * keys.stride + first) * size_of(dtype), dtype, n, rows[r]);
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
// 16 sums in registers where there are 32 registers, else 8.
constexpr std::int64_t kVectors = HWY_TARGET == HWY_AVX3 ? 4 : 2;
constexpr std::int64_t kHeads = 4;

// kNumHeads heads against kVectors vectors of keys; adds to `sums`.
template <std::int64_t kNumHeads>
HWY_INLINE void AddHeads(const float* HWY_RESTRICT query, const float* HWY_RESTRICT weights,
                         const float* HWY_RESTRICT tile, std::int64_t dim, float* HWY_RESTRICT sums) {
  const Tag d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  hn::Vec<Tag> dots[kNumHeads][kVectors];
#pragma GCC unroll 4
  for (auto& head : dots) {
#pragma GCC unroll 4
    for (auto& dot : head) dot = hn::Zero(d);
  }
  for (std::int64_t i = 0; i < dim; ++i) {
    hn::Vec<Tag> key[kVectors];
#pragma GCC unroll 4
    for (std::int64_t v = 0; v < kVectors; ++v) key[v] = hn::Load(d, tile + i * kMqaTileKeys + v * lanes);
#pragma GCC unroll 4
    for (std::int64_t h = 0; h < kNumHeads; ++h) {
      const auto q = hn::Set(d, query[h * dim + i]);
#pragma GCC unroll 4
      for (std::int64_t v = 0; v < kVectors; ++v) dots[h][v] = hn::MulAdd(q, key[v], dots[h][v]);
    }
  }
#pragma GCC unroll 4
  for (std::int64_t v = 0; v < kVectors; ++v) {
    auto sum = hn::Load(d, sums + v * lanes);
#pragma GCC unroll 4
    for (std::int64_t h = 0; h < kNumHeads; ++h)
      sum = hn::MulAdd(hn::Set(d, weights[h]), hn::Max(dots[h][v], hn::Zero(d)), sum);
    hn::Store(sum, d, sums + v * lanes);
  }
}

void Sums(const float* query, const float* weights, const float* tile, std::int64_t heads, std::int64_t dim,
          float* sums) {
  const auto step = kVectors * static_cast<std::int64_t>(hn::Lanes(Tag()));
  std::memset(sums, 0, kMqaTileKeys * sizeof(float));
  std::int64_t h = 0;
  for (; h + kHeads <= heads; h += kHeads) {
    for (std::int64_t j = 0; j < kMqaTileKeys; j += step)
      AddHeads<kHeads>(query + h * dim, weights + h, tile + j, dim, sums + j);
  }
  for (; h < heads; ++h) {
    for (std::int64_t j = 0; j < kMqaTileKeys; j += step)
      AddHeads<1>(query + h * dim, weights + h, tile + j, dim, sums + j);
  }
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
void cpu::mqa_sums_simd(const float* query, const float* weights, const float* tile, std::int64_t heads,
                        std::int64_t dim, float* sums) {
  const auto run = HWY_DYNAMIC_DISPATCH(Sums);
  run(query, weights, tile, heads, dim, sums);
}
}  // namespace fathom
#endif
