// The matrix product core for every vector target: lanes run along k. Weights become f32 in a tile in L1; on
// AVX2, e4m3 becomes f16 there; few rows take f32 and bf16 weights from where they lie.
// Compiled once for every vector target; see src/cpu/simd.hpp.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/gemm_simd.cpp"
#include <hwy/foreach_target.h>
// must follow foreach_target.h
#include <hwy/cache_control.h>

#include <cstring>

#include "cpu/gemm_impl.hpp"
#include "cpu/simd.hpp"

HWY_BEFORE_NAMESPACE();
namespace fathom::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using cpu::Gemm;

// 128 elements are whole vectors of every target we ship (4, 8 and 16 lanes).
using Tag = hn::CappedTag<float, 16>;
using Vector = hn::Vec<Tag>;

// Columns whose totals, and weights of one group, are held at once.
constexpr std::int64_t kColumnBlock = HWY_TARGET == HWY_AVX2 ? 8 : 16;
constexpr std::int64_t kTileRows = 4;
constexpr std::int64_t kAheadGroups = 12;  // how far ahead e4m3 weights are fetched
// Up to here weights of f32 and bf16 go into the sums from where they lie.
constexpr std::int64_t kDirectRows = HWY_TARGET == HWY_AVX3 ? 0 : 4;

// Rows of bf16 weights up to as many groups are fetched ahead: they end before the core's own prefetchers
// know them.
constexpr std::int64_t kShortGroups = 4;
// Up to here the next e4m3 weights are staged while the present ones are multiplied.
[[maybe_unused]] constexpr std::int64_t kMeanwhileRows = 2;

// Columns of a tile: 16 sums in registers where there are 32 registers, else 8 to 12.
constexpr std::int64_t tile_columns(std::int64_t rows) {
  if (HWY_TARGET == HWY_AVX3) return 4;
  return rows == 1 ? 8 : rows == 4 ? 2 : 4;
}

// What decoded values are to be multiplied by.
constexpr float unit_of(DType dtype) { return dtype == DType::f8e4m3 ? kF8Unit : 1.0f; }

template <class Weight>
HWY_INLINE Vector LoadWeights(Tag d, const Weight* x) {
  return LoadWhole(d, x);
}
#if HWY_TARGET == HWY_AVX2
HWY_INLINE Vector LoadWeights(Tag d, const hwy::float16_t* x) {
  return hn::PromoteTo(d, hn::Load(hn::Full128<hwy::float16_t>(), x));
}
#endif

// `count` elements as f32, e4m3 through kF8Unit, and zeros up to 128.
HWY_NOINLINE void DecodeGroup(const void* data, DType dtype, std::int64_t first, std::int64_t count,
                              float* out) {
  const Tag d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  std::int64_t i = 0;
  if (dtype == DType::f8e4m3) {
    const auto* codes = static_cast<const std::uint8_t*>(data) + first;
    HWY_ALIGN std::uint8_t padded[kScaleGroup];
    if (count < kScaleGroup) {
      std::memset(padded, 0, sizeof padded);
      std::memcpy(padded, codes, static_cast<std::size_t>(count));
      codes = padded;
    }
    for (; i < kScaleGroup; i += 2 * lanes) {
      Vector low, high;
      DecodeF8Pair(d, codes + i, low, high);
      hn::Store(low, d, out + i);
      hn::Store(high, d, out + i + lanes);
    }
    return;
  }
  for (; i < count; i += lanes) hn::Store(LoadFloats(d, data, dtype, first + i, count - i), d, out + i);
  for (; i < kScaleGroup; i += lanes) hn::Store(hn::Zero(d), d, out + i);
}

#if HWY_TARGET == HWY_AVX2
// The e4m3 rows that follow a group by some groups: along the rows, then in the next columns, then in the
// next weights; where there are none, what is at hand already.
struct CodeLines {
  const std::uint8_t* rows;
  std::int64_t stride;
};
#include "cpu/gemm_avx2.hpp"

// Values times `unit`, in the order of staged codes.
HWY_INLINE void Split(float* values, float unit) {
  const Tag d;
  const auto times = hn::Set(d, unit);
  for (float* x = values; x != values + kScaleGroup; x += 32) {
    Vector y[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) y[i] = hn::Mul(hn::Load(d, x + 8 * i), times);
    hn::Store(hn::ConcatEven(d, y[1], y[0]), d, x);
    hn::Store(hn::ConcatEven(d, y[3], y[2]), d, x + 8);
    hn::Store(hn::ConcatOdd(d, y[1], y[0]), d, x + 16);
    hn::Store(hn::ConcatOdd(d, y[3], y[2]), d, x + 24);
  }
}
#endif

// Adds one group of 128 to the totals of kRows x kColumns elements. A total is a vector of partial sums.
template <std::int64_t kRows, std::int64_t kColumns, class Weight>
HWY_INLINE void Tile(const float* HWY_RESTRICT a, const float* HWY_RESTRICT a_scale,
                     const Weight* HWY_RESTRICT b, std::int64_t b_stride, const float* HWY_RESTRICT b_scale,
                     float* HWY_RESTRICT totals) {
  const Tag d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  Vector sums[kRows][kColumns];
#pragma GCC unroll 8
  for (auto& row : sums) {
#pragma GCC unroll 8
    for (auto& sum : row) sum = hn::Zero(d);
  }
#pragma GCC unroll 2
  for (std::int64_t k = 0; k < kScaleGroup; k += lanes) {
#pragma GCC unroll 8
    for (std::int64_t c = 0; c < kColumns; ++c) {
      const auto weights = LoadWeights(d, b + c * b_stride + k);
#pragma GCC unroll 8
      for (std::int64_t r = 0; r < kRows; ++r)
        sums[r][c] = hn::MulAdd(hn::Load(d, a + r * kScaleGroup + k), weights, sums[r][c]);
    }
  }
#pragma GCC unroll 8
  for (std::int64_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (std::int64_t c = 0; c < kColumns; ++c) {
      float* total = totals + (r * kColumnBlock + c) * lanes;
      const auto scale = hn::Mul(hn::Set(d, a_scale[r]), hn::Set(d, b_scale[c]));
      hn::Store(hn::MulAdd(sums[r][c], scale, hn::Load(d, total)), d, total);
    }
  }
}

// The sums of a row's totals, all in one order.
HWY_INLINE void SumTotals(const float* totals, float* sums) {
  const Tag d;
#if HWY_TARGET == HWY_AVX2
  for (std::int64_t c = 0; c < kColumnBlock; c += 4) {
    const float* x = totals + c * 8;
    hn::Store(SumsOfFour(hn::Load(d, x), hn::Load(d, x + 8), hn::Load(d, x + 16), hn::Load(d, x + 24)),
              hn::Full128<float>(), sums + c);
  }
#else
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  for (std::int64_t c = 0; c < kColumnBlock; ++c)
    sums[c] = hn::GetLane(hn::SumOfLanes(d, hn::Load(d, totals + c * lanes)));
#endif
}

// The packed block: f32 [groups][rows][128], then scales [groups][rows].
void PackRows(const Gemm& p, std::int64_t first, std::int64_t rows, std::int64_t begin, std::int64_t end,
              std::byte* packed) {
  const std::int64_t groups = scale_groups(p.k);
  auto* a = reinterpret_cast<float*>(packed);
  float* scales = a + rows * groups * kScaleGroup;
  // The units of both operands. Codes have room for them, unlike scales; rows of f32 and bf16 have up to
  // 2^120.
  const Tag d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const float unit = unit_of(p.a_dtype) * unit_of(p.b_dtype);
  for (std::int64_t i = begin; i < end; ++i) {
    for (std::int64_t g = 0; g < groups; ++g) {
      const std::int64_t k = g * kScaleGroup;
      float* values = a + (g * rows + i) * kScaleGroup;
      DecodeGroup(p.a, p.a_dtype, (first + i) * p.a_stride + k, std::min(kScaleGroup, p.k - k), values);
      scales[g * rows + i] = cpu::scale_of(p.a_scale, first + i, g);
#if HWY_TARGET == HWY_AVX2
      if (p.b_dtype == DType::f8e4m3) {
        Split(values, unit);
        continue;
      }
#endif
      for (std::int64_t j = 0; unit != 1 && j < kScaleGroup; j += lanes)
        hn::Store(hn::Mul(hn::Load(d, values + j), hn::Set(d, unit)), d, values + j);
    }
  }
}

// A block of rows times up to kColumnBlock columns.
class Block {
 public:
  Block(const Gemm& p, std::int64_t rows, const std::byte* packed)
      : p_(p),
        rows_(rows),
        groups_(scale_groups(p.k)),
        ahead_columns_(kAheadGroups / std::max<std::int64_t>(groups_, 1) * kColumnBlock),
        ahead_groups_(kAheadGroups % std::max<std::int64_t>(groups_, 1)),
        a_(reinterpret_cast<const float*>(packed)),
        a_scale_(a_ + rows * groups_ * kScaleGroup) {
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(Tag()));
    staged_ = reinterpret_cast<float*>(
        cpu::gemm_scratch((kColumnBlock * kScaleGroup + rows * kColumnBlock * lanes) * 4));
    totals_ = staged_ + kColumnBlock * kScaleGroup;
  }

#if HWY_TARGET == HWY_AVX2
  // Columns [begin, end) of e4m3 weights, rows of the output from i0 on.
  void RunCodes(std::int64_t i0, std::int64_t begin, std::int64_t end) const {
    hwy::float16_t* now = reinterpret_cast<hwy::float16_t*>(staged_);
    hwy::float16_t* next = now + kColumnBlock * kScaleGroup;
    const bool meanwhile = rows_ <= kMeanwhileRows;
    if (meanwhile) StageOf(begin, 0, end, now).All();
    for (std::int64_t j = begin; j < end; j += kColumnBlock) {
      const std::int64_t columns = std::min(kColumnBlock, end - j);
      std::memset(totals_, 0, static_cast<std::size_t>(rows_ * kColumnBlock * 8) * sizeof(float));
      for (std::int64_t g = 0; g < groups_; ++g) {
        HWY_ALIGN float scales[kColumnBlock] = {};
        Scales(j, columns, g, scales);
        if (!meanwhile) {
          StageOf(j, g, end, now).All();
          Add<true>(g, kColumnBlock, now, kScaleGroup, scales);
          continue;
        }
        const bool wraps = g + 1 == groups_;
        if (wraps && j + kColumnBlock >= end) {
          AddCodes<false>(g, now, scales, StageOf(j, g, end, next));
        } else {
          AddCodes<true>(g, now, scales, StageOf(wraps ? j + kColumnBlock : j, wraps ? 0 : g + 1, end, next));
        }
        std::swap(now, next);
      }
      Store(i0, j, columns);
    }
  }
#endif

  void Run(std::int64_t j, std::int64_t columns) const {
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(Tag()));
    std::memset(totals_, 0, static_cast<std::size_t>(rows_ * kColumnBlock * lanes) * sizeof(float));
    for (std::int64_t g = 0; g < groups_; ++g) {
      HWY_ALIGN float scales[kColumnBlock];
      Scales(j, columns, g, scales);
      const std::int64_t first = j * p_.b_stride + g * kScaleGroup;
      const bool whole = (g + 1) * kScaleGroup <= p_.k;
      if (whole && rows_ <= kDirectRows && p_.b_dtype == DType::bf16) {
        if (HWY_TARGET == HWY_AVX2 && groups_ <= kShortGroups && j + 2 * kColumnBlock <= p_.n) {
          const auto* ahead = static_cast<const std::uint16_t*>(p_.b) + first + kColumnBlock * p_.b_stride;
          for (std::int64_t c = 0; c < kColumnBlock; ++c, ahead += p_.b_stride)
            for (std::int64_t k = 0; k < kScaleGroup; k += 32) hwy::Prefetch(ahead + k);
        }
        Add<false>(g, columns, static_cast<const std::uint16_t*>(p_.b) + first, p_.b_stride, scales);
      } else if (whole && rows_ <= kDirectRows && p_.b_dtype == DType::f32) {
        Add<false>(g, columns, static_cast<const float*>(p_.b) + first, p_.b_stride, scales);
      } else {
        for (std::int64_t c = 0; c < columns; ++c) {
          DecodeGroup(p_.b, p_.b_dtype, first + c * p_.b_stride,
                      std::min(kScaleGroup, p_.k - g * kScaleGroup), staged_ + c * kScaleGroup);
        }
        Add<true>(g, columns, staged_, kScaleGroup, scales);
      }
    }
  }

  // Rows from i0 on of columns [j, j + columns) of the output.
  void Store(std::int64_t i0, std::int64_t j, std::int64_t columns) const {
    const Tag d;
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
    for (std::int64_t i = 0; i < rows_; ++i) {
      HWY_ALIGN float sums[kColumnBlock];
      SumTotals(totals_ + i * kColumnBlock * lanes, sums);
      const std::int64_t index = (i0 + i) * p_.out_stride + j;
      for (std::int64_t c = 0; c < columns; c += lanes) {
        auto sum = hn::Load(d, sums + c);
        if (p_.accumulate) sum = hn::Add(LoadFloats(d, p_.out, p_.out_dtype, index + c, columns - c), sum);
        StoreFloats(d, sum, p_.out, p_.out_dtype, index + c, columns - c);
      }
    }
  }

 private:
  // The weights' scales.
  void Scales(std::int64_t j, std::int64_t columns, std::int64_t g, float* scales) const {
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(Tag()));
    const cpu::GemmScale& scale = p_.b_scale;
    const bool blocks = scale.rows == kScaleGroup && j / kScaleGroup == (j + columns - 1) / kScaleGroup;
    if (scale.data == nullptr || blocks) {
      const auto all = hn::Set(Tag(), cpu::scale_of(scale, j, g));
      for (std::int64_t c = 0; c < kColumnBlock; c += lanes) hn::Store(all, Tag(), scales + c);
    } else {
      for (std::int64_t c = 0; c < columns; ++c) scales[c] = cpu::scale_of(scale, j + c, g);
    }
  }

#if HWY_TARGET == HWY_AVX2
  HWY_INLINE CodeLines AheadOf(std::int64_t j, std::int64_t g) const {
    const auto* b = static_cast<const std::uint8_t*>(p_.b);
    j += ahead_columns_;
    g += ahead_groups_;
    if (g >= groups_) {
      j += kColumnBlock;
      g -= groups_;
    }
    if (j >= p_.n && p_.next_b != nullptr) {
      b = static_cast<const std::uint8_t*>(p_.next_b);
      j -= p_.n;
    }
    if (j + kColumnBlock > p_.n) return {reinterpret_cast<const std::uint8_t*>(staged_), 0};
    return {b + j * p_.b_stride + g * kScaleGroup, p_.b_stride};
  }

  // Group g of the columns from j on, of those before `end`.
  HWY_INLINE CodeStage StageOf(std::int64_t j, std::int64_t g, std::int64_t end, hwy::float16_t* to) const {
    const std::int64_t columns = std::min(kColumnBlock, end - j);
    const std::int64_t count = p_.k - g * kScaleGroup;
    const auto* codes = static_cast<const std::uint8_t*>(p_.b) + j * p_.b_stride + g * kScaleGroup;
    if (HWY_LIKELY(count >= kScaleGroup)) return {codes, p_.b_stride, columns, AheadOf(j, g), to};
    // The rest of the rows, with zeros behind.
    HWY_ALIGN static thread_local std::uint8_t padded[kColumnBlock][kScaleGroup];
    std::memset(padded, 0, sizeof padded);
    for (std::int64_t c = 0; c < columns; ++c)
      std::memcpy(padded[c], codes + c * p_.b_stride, static_cast<std::size_t>(count));
    return {padded[0], kScaleGroup, columns, AheadOf(j, g), to};
  }

  // Adds group g, staged at `b`; `next` is staged meanwhile.
  template <bool kNext>
  void AddCodes(std::int64_t g, const hwy::float16_t* b, const float* scales, const CodeStage& next) const {
    const float* a = a_ + g * rows_ * kScaleGroup;
    const float* a_scale = a_scale_ + g * rows_;
    if (rows_ == 1) return AddGroup<1, kNext>(a, a_scale, b, scales, totals_, next);
    AddGroup<2, kNext>(a, a_scale, b, scales, totals_, next);
  }
#endif

  // Adds group g of the columns whose weights are at `b`; kStaged: their stride is known, 128.
  template <bool kStaged, class Weight>
  HWY_INLINE void Add(std::int64_t g, std::int64_t columns, const Weight* b, std::int64_t b_stride,
                      const float* scales) const {
    std::int64_t i = 0;
    for (; i + kTileRows <= rows_; i += kTileRows)
      AddRows<kTileRows, kStaged>(i, g, columns, b, b_stride, scales);
    if (rows_ - i == 3) AddRows<3, kStaged>(i, g, columns, b, b_stride, scales);
    if (rows_ - i == 2) AddRows<2, kStaged>(i, g, columns, b, b_stride, scales);
    if (rows_ - i == 1) AddRows<1, kStaged>(i, g, columns, b, b_stride, scales);
  }

  template <std::int64_t kRows, bool kStaged, class Weight>
  HWY_NOINLINE void AddRows(std::int64_t i, std::int64_t g, std::int64_t columns, const Weight* b,
                            std::int64_t b_stride, const float* scales) const {
    constexpr std::int64_t kWidth = tile_columns(kRows);
    if (kStaged) b_stride = kScaleGroup;
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(Tag()));
    const float* a = a_ + (g * rows_ + i) * kScaleGroup;
    const float* a_scale = a_scale_ + g * rows_ + i;
    float* totals = totals_ + i * kColumnBlock * lanes;
    std::int64_t c = 0;
    for (; c + kWidth <= columns; c += kWidth)
      Tile<kRows, kWidth>(a, a_scale, b + c * b_stride, b_stride, scales + c, totals + c * lanes);
    for (; c < columns; ++c)
      Tile<kRows, 1>(a, a_scale, b + c * b_stride, b_stride, scales + c, totals + c * lanes);
  }

  const Gemm& p_;
  std::int64_t rows_;
  std::int64_t groups_;
  [[maybe_unused]] std::int64_t ahead_columns_, ahead_groups_;  // together kAheadGroups
  const float* a_;
  const float* a_scale_;
  float* staged_;  // [kColumnBlock][128], or twice as f16
  float* totals_;  // [rows][kColumnBlock] vectors
};

void Columns(const Gemm& p, std::int64_t i0, std::int64_t rows, const std::byte* packed, std::int64_t begin,
             std::int64_t end) {
  const Block block(p, rows, packed);
#if HWY_TARGET == HWY_AVX2
  if (p.b_dtype == DType::f8e4m3) return block.RunCodes(i0, begin, end);
#endif
  for (std::int64_t j = begin; j < end; j += kColumnBlock) {
    const std::int64_t columns = std::min(kColumnBlock, end - j);
    block.Run(j, columns);
    block.Store(i0, j, columns);
  }
}

}  // namespace fathom::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fathom {
HWY_EXPORT(PackRows);
HWY_EXPORT(Columns);

namespace cpu {
namespace {
std::int64_t packed_bytes(const Gemm& gemm, std::int64_t rows) {
  return rows * scale_groups(gemm.k) * (kScaleGroup + 1) * 4;
}
void pack(const Gemm& gemm, std::int64_t first, std::int64_t rows, std::int64_t begin, std::int64_t end,
          std::byte* packed) {
  const auto run = HWY_DYNAMIC_DISPATCH(PackRows);
  run(gemm, first, rows, begin, end, packed);
}
void columns(const Gemm& gemm, std::int64_t first, std::int64_t rows, const std::byte* packed,
             std::int64_t begin, std::int64_t end) {
  const auto run = HWY_DYNAMIC_DISPATCH(Columns);
  run(gemm, first, rows, packed, begin, end);
}
constexpr std::int64_t kMostRows = 32;
}  // namespace

extern const GemmKernel gemm_kernel_simd;
const GemmKernel gemm_kernel_simd = {kMostRows, 12, 50, packed_bytes, pack, columns};
}  // namespace cpu
}  // namespace fathom
#endif
