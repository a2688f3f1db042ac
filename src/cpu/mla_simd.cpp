// Latent attention in f32 for every vector target. Compiled once for every one; see src/cpu/simd.hpp. On AVX2
// e4m3 entries stay f16 without their scales, which is less than half of the memory that f32 takes.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/mla_simd.cpp"
#include <hwy/foreach_target.h>
// must follow foreach_target.h
#include <hwy/cache_control.h>
#include <hwy/contrib/math/math-inl.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "cpu/mla.hpp"
#include "cpu/scratch.hpp"
#include "cpu/simd.hpp"
#include "ops/cache_layout.hpp"
#include "ops/gemm_scales.hpp"

HWY_BEFORE_NAMESPACE();
namespace fathom::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using cpu::kMlaBlock;

using Tag = hn::CappedTag<float, 16>;
constexpr std::int64_t kPad = 16;  // rows are padded with zeros to a multiple of this
constexpr std::int64_t kTileHeads = 4;
constexpr std::int64_t kTileEntries = HWY_TARGET == HWY_AVX2 ? 3 : 2;  // 12 sums in 16 registers, else 8
constexpr std::int64_t kTileVectors = kTileEntries;
constexpr std::int64_t kRowWeights = kMlaBlock + kPad;  // a tile may write beyond the last entry
constexpr std::int64_t kHalfPad = 32;  // a line: rows of f16 should not fall into the same sets of the cache
constexpr float kInfinity = std::numeric_limits<float>::infinity();

class MlaSimd {
 public:
  explicit MlaSimd(const cpu::MlaHeads& task)
      : t_(task),
        dim_(cpu::align_to(task.lora + task.rope_dim, kPad)),
        lora_(cpu::align_to(task.lora, kPad)),
        heads_(cpu::align_to(task.heads, kTileHeads)),
        direct_(task.cache_dtype == DType::f32 && dim_ == task.lora + task.rope_dim),
        halves_(HWY_TARGET == HWY_AVX2 && task.cache_dtype == DType::u8) {
    const std::int64_t stage = direct_ ? 0 : kMlaBlock * dim_;
    auto* memory = reinterpret_cast<float*>(
        cpu::thread_scratch<MlaSimd>(4 * (heads_ * (dim_ + lora_ + kRowWeights + kPad) + stage)));
    q_ = memory;
    sums_ = q_ + heads_ * dim_;
    weights_ = sums_ + heads_ * lora_;
    stage_ = weights_ + heads_ * kRowWeights;
    factor_ = stage_ + stage;  // [heads], at most 16 a head with the two below
    highest_ = factor_ + heads_;
    total_ = highest_ + heads_;
    scales_ = stage_ + kMlaBlock * (task.lora + kHalfPad) / 2;  // f16 takes less than f32
  }

  void Run() {
    PackQueries();
    std::fill(sums_, sums_ + heads_ * lora_, 0.0f);
    std::fill(total_, total_ + heads_, 0.0f);
    std::fill(factor_, factor_ + heads_, 0.0f);
    std::fill(highest_, highest_ + heads_, -kInfinity);
    for (std::int64_t j = 0; j < t_.count; j += kMlaBlock) {
      const std::int64_t n = std::min(kMlaBlock, t_.count - j);
      Scores(t_.slots + j, n);
      for (std::int64_t h = 0; h < t_.heads; ++h) Softmax(h, n);
#if HWY_TARGET == HWY_AVX2
      if (halves_) {
        AddHalves(n);
        continue;
      }
#endif
      AddValues(n);
    }
    Finish();
  }

 private:
  void PackQueries() const {
    const Tag d;
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
    const std::int64_t dim = t_.lora + t_.rope_dim;
    const bool round = t_.cache_dtype != DType::f32 && t_.q_dtype == DType::f32;
    std::fill(q_, q_ + heads_ * dim_, 0.0f);
    for (std::int64_t h = 0; h < t_.heads; ++h) {
      float* to = q_ + h * dim_;
      for (std::int64_t i = 0; i < dim; i += lanes)
        hn::Store(LoadFloats(d, t_.q, t_.q_dtype, h * t_.q_stride + i, dim - i), d, to + i);
      for (std::int64_t i = 0; round && i < dim; ++i) to[i] = bf16_to_float(float_to_bf16(to[i]));
      for (std::int64_t i = 0; halves_ && i < t_.lora; i += lanes)
        hn::Store(hn::Mul(hn::Load(d, to + i), hn::Set(d, kF8Unit)), d, to + i);
    }
  }

  // rows_[j]: entry j of a block as f32.
  void Stage(const std::int32_t* slots, std::int64_t j) {
    const std::uint8_t* entry = t_.cache + slots[j] * t_.entry_bytes;
    if (direct_) {
      rows_[j] = reinterpret_cast<const float*>(entry);
    } else {
      rows_[j] = stage_ + j * dim_;
      StageEntry(entry, stage_ + j * dim_);
    }
  }

  void StageEntry(const std::uint8_t* entry, float* to) const {
    const Tag d;
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
    const std::int64_t dim = t_.lora + t_.rope_dim;
    std::int64_t begin = 0;
    DType dtype = t_.cache_dtype;
    if (dtype == DType::u8) {
      const std::int64_t lora = t_.lora;
      const auto unit = hn::Set(d, kF8Unit);
      const std::uint8_t* scales = entry + lora;
      for (; begin < lora; begin += kScaleGroup) {
        const auto scale = hn::Set(d, load_f32(scales + begin / kScaleGroup * 4));
        for (std::int64_t i = begin; i < begin + kScaleGroup; i += 2 * lanes) {
          hn::Vec<Tag> low, high;
          DecodeF8Pair(d, entry + i, low, high);
          hn::Store(hn::Mul(hn::Mul(low, unit), scale), d, to + i);
          hn::Store(hn::Mul(hn::Mul(high, unit), scale), d, to + i + lanes);
        }
      }
      entry = scales + t_.lora / 128 * 4 - 2 * t_.lora;  // where the rope's bf16 index lora would be
      dtype = DType::bf16;
    }
    for (std::int64_t i = begin; i < dim; i += lanes)
      hn::Store(LoadFloats(d, entry, dtype, i, dim - i), d, to + i);
    for (std::int64_t i = cpu::align_to(dim, lanes); i < dim_; i += lanes) hn::Store(hn::Zero(d), d, to + i);
  }

  // weights_[h][j] = dot(q[h], rows_[j])
  void Scores(const std::int32_t* slots, std::int64_t n) {
    for (std::int64_t j = 0; j < n; j += kTileEntries) {
      const float* rows[kTileEntries];
      for (std::int64_t e = 0; e < kTileEntries; ++e) {
        if (j + kTileEntries + e < t_.slots + t_.count - slots) Fetch(slots[j + kTileEntries + e]);
#if HWY_TARGET == HWY_AVX2
        if (halves_) {
          if (j + e < n) StageHalves(slots[j + e], j + e);
          continue;
        }
#endif
        if (j + e < n) Stage(slots, j + e);
        rows[e] = rows_[std::min(j + e, n - 1)];
      }
      for (std::int64_t h = 0; h < heads_; h += kTileHeads) {
#if HWY_TARGET == HWY_AVX2
        if (halves_) {
          ScoreHalves(h, slots, j, n);
          continue;
        }
#endif
        ScoreTile(h, j, rows);
      }
    }
  }

#if HWY_TARGET == HWY_AVX2
  // Entry j of a block as f16, and its scales.
  void StageHalves(std::int32_t slot, std::int64_t j) const {
    const std::uint8_t* entry = t_.cache + slot * t_.entry_bytes;
    F8ToHalves(entry, t_.lora, Half(j));
    for (std::int64_t g = 0; g * kScaleGroup < t_.lora; ++g)
      scales_[g * kMlaBlock + j] = load_f32(entry + t_.lora + 4 * g);
  }
  hwy::float16_t* Half(std::int64_t j) const {
    return reinterpret_cast<hwy::float16_t*>(stage_) + j * (t_.lora + kHalfPad);
  }
  static HWY_INLINE hn::Vec<Tag> LoadHalf(const hwy::float16_t* x) {
    return hn::PromoteTo(Tag(), hn::Load(hn::Full128<hwy::float16_t>(), x));
  }

  // As ScoreTile: the rotated part, then the sum of each group of 128 times its scale.
  HWY_INLINE void ScoreHalves(std::int64_t h0, const std::int32_t* slots, std::int64_t j,
                              std::int64_t n) const {
    const Tag d;
    constexpr std::int64_t kLanes = 8;
    const hwy::float16_t* rows[kTileEntries];
    const std::uint8_t* ropes[kTileEntries];
    std::int64_t entries[kTileEntries];
    for (std::int64_t e = 0; e < kTileEntries; ++e) {
      entries[e] = std::min(j + e, n - 1);
      rows[e] = Half(entries[e]);
      ropes[e] = t_.cache + slots[entries[e]] * t_.entry_bytes + t_.lora + t_.lora / kScaleGroup * 4;
    }
    const float* HWY_RESTRICT q = q_ + h0 * dim_;
    hn::Vec<Tag> dots[kTileHeads][kTileEntries];
    SetZero(dots);
    for (std::int64_t i = 0; i < t_.rope_dim; i += kLanes) {
      hn::Vec<Tag> entry[kTileEntries];
#pragma GCC unroll 4
      for (std::int64_t e = 0; e < kTileEntries; ++e)
        entry[e] = LoadFloats(d, ropes[e], DType::bf16, i, t_.rope_dim - i);
      AddDots(q + t_.lora + i, entry, dots);
    }
    hn::Vec<Tag> sums[kTileHeads][kTileEntries];
#pragma GCC unroll 4
    for (std::int64_t h = 0; h < kTileHeads; ++h) {
#pragma GCC unroll 4
      for (std::int64_t e = 0; e < kTileEntries; ++e) sums[h][e] = dots[h][e];
    }
    for (std::int64_t first = 0; first < t_.lora; first += kScaleGroup) {
      SetZero(dots);
      for (std::int64_t i = first; i < first + kScaleGroup; i += kLanes) {
        hn::Vec<Tag> entry[kTileEntries];
#pragma GCC unroll 4
        for (std::int64_t e = 0; e < kTileEntries; ++e) entry[e] = LoadHalf(rows[e] + i);
        AddDots(q + i, entry, dots);
      }
      const float* scales = scales_ + first / kScaleGroup * kMlaBlock;
#pragma GCC unroll 4
      for (std::int64_t e = 0; e < kTileEntries; ++e) {
        const auto scale = hn::Set(d, scales[entries[e]]);
#pragma GCC unroll 4
        for (std::int64_t h = 0; h < kTileHeads; ++h) sums[h][e] = hn::MulAdd(dots[h][e], scale, sums[h][e]);
      }
    }
    StoreDots(h0, j, sums);
  }

  // As AddValues. Weights take the entries' scales, a group of 128 at a time.
  void AddHalves(std::int64_t n) const {
    const Tag d;
    constexpr std::int64_t kLanes = 8;
    constexpr std::int64_t kVectors = 2;
    for (std::int64_t first = 0; first < t_.lora; first += kScaleGroup) {
      const float* scales = scales_ + first / kScaleGroup * kMlaBlock;
      for (std::int64_t h0 = 0; h0 < heads_; h0 += kTileHeads) {
        HWY_ALIGN float weights[kTileHeads * kMlaBlock];
        for (std::int64_t h = 0; h < kTileHeads; ++h) {
          for (std::int64_t j = 0; j < n; j += kLanes) {
            const auto weight =
                hn::Mul(hn::Load(d, weights_ + (h0 + h) * kRowWeights + j), hn::Set(d, kF8Unit));
            hn::Store(hn::Mul(weight, hn::Load(d, scales + j)), d, weights + h * kMlaBlock + j);
          }
        }
        for (std::int64_t i = first; i < first + kScaleGroup; i += kVectors * kLanes) {
          const hwy::float16_t* HWY_RESTRICT row = Half(0) + i;
          SumTile<kVectors>(h0, i, n, weights, kMlaBlock, [&](std::int64_t v) HWY_ATTR {
            const auto value = LoadHalf(row + v * kLanes);
            if (v + 1 == kVectors) row += t_.lora + kHalfPad;
            return value;
          });
        }
      }
    }
  }
#endif

  void Fetch(std::int32_t slot) const {
    const std::uint8_t* entry = t_.cache + slot * t_.entry_bytes;
    for (std::int64_t i = 0; i < t_.entry_bytes; i += 64) hwy::Prefetch(entry + i);
  }

  HWY_INLINE void ScoreTile(std::int64_t h0, std::int64_t j, const float* const (&rows)[kTileEntries]) const {
    const Tag d;
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
    hn::Vec<Tag> dots[kTileHeads][kTileEntries];
    SetZero(dots);
    const float* HWY_RESTRICT q = q_ + h0 * dim_;
    for (std::int64_t i = 0; i < dim_; i += lanes) {
      hn::Vec<Tag> entry[kTileEntries];
#pragma GCC unroll 4
      for (std::int64_t e = 0; e < kTileEntries; ++e) entry[e] = hn::LoadU(d, rows[e] + i);
      AddDots(q + i, entry, dots);
    }
    StoreDots(h0, j, dots);
  }

  static HWY_INLINE void SetZero(hn::Vec<Tag> (&dots)[kTileHeads][kTileEntries]) {
#pragma GCC unroll 4
    for (auto& head : dots) {
#pragma GCC unroll 4
      for (auto& dot : head) dot = hn::Zero(Tag());
    }
  }

  // Adds the products of some elements of the queries at `q` and of the entries.
  HWY_INLINE void AddDots(const float* HWY_RESTRICT q, const hn::Vec<Tag> (&entry)[kTileEntries],
                          hn::Vec<Tag> (&dots)[kTileHeads][kTileEntries]) const {
#pragma GCC unroll 4
    for (std::int64_t h = 0; h < kTileHeads; ++h) {
      const auto query = hn::Load(Tag(), q + h * dim_);
#pragma GCC unroll 4
      for (std::int64_t e = 0; e < kTileEntries; ++e) dots[h][e] = hn::MulAdd(query, entry[e], dots[h][e]);
    }
  }

  HWY_INLINE void StoreDots(std::int64_t h0, std::int64_t j,
                            const hn::Vec<Tag> (&dots)[kTileHeads][kTileEntries]) const {
    const Tag d;
#pragma GCC unroll 4
    for (std::int64_t h = 0; h < kTileHeads; ++h) {
      float* to = weights_ + (h0 + h) * kRowWeights + j;
#if HWY_TARGET == HWY_AVX2
      const auto sums = SumsOfFour(dots[h][0], dots[h][1], dots[h][2], hn::Zero(d));
      hn::StoreU(sums, hn::Full128<float>(), to);  // the fourth is the next tile's, or beyond the last entry
      continue;
#endif
#pragma GCC unroll 4
      for (std::int64_t e = 0; e < kTileEntries; ++e) to[e] = hn::GetLane(hn::SumOfLanes(d, dots[h][e]));
    }
  }

  // Scores of head h become exp(score - highest); the sums so far shrink by factor_[h].
  void Softmax(std::int64_t h, std::int64_t n) const {
    const Tag d;
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
    float* weights = weights_ + h * kRowWeights;
    const auto scale = hn::Set(d, t_.softmax_scale);
    const auto end = hn::Set(d, static_cast<float>(n));
    const auto nothing = hn::Set(d, -kInfinity);
    auto highest = nothing;
    for (std::int64_t j = 0; j < kMlaBlock; j += lanes) {
      const auto inside = hn::Lt(hn::Iota(d, static_cast<float>(j)), end);
      const auto kept = hn::IfThenElse(inside, hn::Mul(hn::Load(d, weights + j), scale), nothing);
      hn::Store(kept, d, weights + j);
      highest = hn::Max(highest, kept);
    }
    const float block = hn::GetLane(hn::MaxOfLanes(d, highest));
    const float next = std::max(highest_[h], block);
    const float base = next == -kInfinity ? 0 : next;
    auto total = hn::Zero(d);
    for (std::int64_t j = 0; j < kMlaBlock; j += lanes) {
      const auto weight = hn::Exp(d, hn::Sub(hn::Load(d, weights + j), hn::Set(d, base)));
      hn::Store(weight, d, weights + j);
      total = hn::Add(total, weight);
    }
    factor_[h] = std::exp(highest_[h] - base);
    total_[h] = std::fma(total_[h], factor_[h], hn::GetLane(hn::SumOfLanes(d, total)));
    highest_[h] = next;
  }

  void AddValues(std::int64_t n) const {
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(Tag()));
    std::int64_t i = 0;
    for (; i + kTileVectors * lanes <= lora_; i += kTileVectors * lanes) {
      for (std::int64_t h = 0; h < heads_; h += kTileHeads) ValueTile<kTileVectors>(h, i, n);
    }
    for (; i < lora_; i += lanes) {
      for (std::int64_t h = 0; h < heads_; h += kTileHeads) ValueTile<1>(h, i, n);
    }
  }

  template <int kVectors>
  HWY_INLINE void ValueTile(std::int64_t h0, std::int64_t i, std::int64_t n) const {
    const Tag d;
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
    const float* const* row = rows_;
    SumTile<kVectors>(h0, i, n, weights_ + h0 * kRowWeights, kRowWeights, [&](std::int64_t v) HWY_ATTR {
      const auto value = hn::LoadU(d, *row + i + v * lanes);
      if (v + 1 == kVectors) ++row;
      return value;
    });
  }

  // Adds the values of n entries times their weights; load(v) is the next entry's vector v.
  template <int kVectors, class Load>
  HWY_INLINE void SumTile(std::int64_t h0, std::int64_t i, std::int64_t n, const float* HWY_RESTRICT weights,
                          std::int64_t weights_stride, Load load) const {
    const Tag d;
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
    hn::Vec<Tag> sums[kTileHeads][kVectors];
    float* to = sums_ + h0 * lora_ + i;
#pragma GCC unroll 4
    for (std::int64_t h = 0; h < kTileHeads; ++h) {
#pragma GCC unroll 4
      for (std::int64_t v = 0; v < kVectors; ++v)
        sums[h][v] = hn::Mul(hn::Load(d, to + h * lora_ + v * lanes), hn::Set(d, factor_[h0 + h]));
    }
    for (std::int64_t j = 0; j < n; ++j) {
      hn::Vec<Tag> value[kVectors];
#pragma GCC unroll 4
      for (std::int64_t v = 0; v < kVectors; ++v) value[v] = load(v);
#pragma GCC unroll 4
      for (std::int64_t h = 0; h < kTileHeads; ++h) {
        const auto weight = hn::Set(d, weights[h * weights_stride + j]);
#pragma GCC unroll 4
        for (std::int64_t v = 0; v < kVectors; ++v) sums[h][v] = hn::MulAdd(weight, value[v], sums[h][v]);
      }
    }
#pragma GCC unroll 4
    for (std::int64_t h = 0; h < kTileHeads; ++h) {
#pragma GCC unroll 4
      for (std::int64_t v = 0; v < kVectors; ++v) hn::Store(sums[h][v], d, to + h * lora_ + v * lanes);
    }
  }

  void Finish() const {
    const Tag d;
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
    for (std::int64_t h = 0; h < t_.heads; ++h) {
      const auto inverse = hn::Set(d, cpu::mla_share(t_, h, highest_[h], total_[h]));
      for (std::int64_t i = 0; i < t_.lora; i += lanes) {
        const auto value = hn::Mul(hn::Load(d, sums_ + h * lora_ + i), inverse);
        StoreFloats(d, value, t_.out, t_.out_dtype, h * t_.out_stride + i, t_.lora - i);
      }
    }
  }

  const cpu::MlaHeads& t_;
  std::int64_t dim_, lora_, heads_;  // padded
  bool direct_;                      // entries are read where they are
  bool halves_;                      // entries become f16 through kF8Unit, which the latent queries have
  float *q_, *sums_, *weights_, *stage_, *factor_, *highest_, *total_;
  float* scales_;  // of f16 entries, [groups][kMlaBlock]
  const float* rows_[kMlaBlock];
};

void MlaHeadsRun(const cpu::MlaHeads& task) { MlaSimd(task).Run(); }

}  // namespace fathom::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fathom {
HWY_EXPORT(MlaHeadsRun);

void cpu::mla_heads_simd(const MlaHeads& task) {
  const auto run = HWY_DYNAMIC_DISPATCH(MlaHeadsRun);
  run(task);
}
}  // namespace fathom
#endif
