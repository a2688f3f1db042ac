// The matrix product core for every vector target: weights become f32 in a tile in L1, lanes run along k.
// Compiled once for every vector target; see src/cpu/simd.hpp.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/gemm_simd.cpp"
#include <hwy/foreach_target.h>
// must follow foreach_target.h
#include <cstring>

#include "cpu/gemm_impl.hpp"
#include "cpu/simd.hpp"

HWY_BEFORE_NAMESPACE();
namespace fathom::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using cpu::Gemm;
using cpu::GemmScale;

// 128 elements are whole vectors of every target we ship (4, 8 and 16 lanes).
using Tag = hn::CappedTag<float, 16>;
using Vector = hn::Vec<Tag>;

constexpr std::int64_t kColumnBlock = 16;  // columns whose totals are held at once; of staged weights, 8 KB of f32
constexpr std::int64_t kTileRows = 4;
// 16 sums in registers where there are 32 registers, else 8.
constexpr std::int64_t kTileColumns = HWY_TARGET == HWY_AVX3 ? 4 : 2;
// Up to here weights go from their rows through registers into the sums.
constexpr std::int64_t kDirectRows = HWY_TARGET == HWY_AVX3 ? 0 : 4;
constexpr std::int64_t kDirectColumns = 8;  // rows of weights that are read side by side

// What decoded values are to be multiplied by.
constexpr float unit_of(DType dtype) { return dtype == DType::f8e4m3 ? kF8Unit : 1.0f; }

// The next 2 * Lanes elements as f32; e4m3 through kF8Unit, and a NaN may read as 480.
HWY_INLINE void LoadPair(Tag d, const float* x, Vector& first, Vector& second) {
  first = hn::LoadU(d, x);
  second = hn::LoadU(d, x + hn::Lanes(d));
}
HWY_INLINE void LoadPair(Tag d, const std::uint16_t* x, Vector& first, Vector& second) {
  first = LoadWhole(d, x);
  second = LoadWhole(d, x + hn::Lanes(d));
}
HWY_INLINE void LoadPair(Tag d, const std::uint8_t* x, Vector& first, Vector& second) {
  DecodeF8Pair<false>(d, x, first, second);
}

// `count` elements as f32, e4m3 through kF8Unit, and zeros up to `padded`, a multiple of 128.
HWY_NOINLINE void DecodeRow(const void* data, DType dtype, std::int64_t first, std::int64_t count,
                            std::int64_t padded, float* out) {
  const Tag d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  std::int64_t i = 0;
  if (dtype == DType::f8e4m3) {
    const auto* codes = static_cast<const std::uint8_t*>(data) + first;
    const auto decode = [&](const std::uint8_t* from, float* to) HWY_ATTR {
      Vector low, high;
      DecodeF8Pair<true>(d, from, low, high);
      hn::Store(low, d, to);
      hn::Store(high, d, to + lanes);
    };
    for (; i + 2 * lanes <= count; i += 2 * lanes) decode(codes + i, out + i);
    HWY_ALIGN std::uint8_t rest[32] = {};
    for (std::int64_t j = i; j < count; ++j) rest[j - i] = codes[j];
    if (i < count) decode(rest, out + i);
    i = (count + 2 * lanes - 1) / (2 * lanes) * (2 * lanes);
  } else {
    for (; i < count; i += lanes) hn::Store(LoadFloats(d, data, dtype, first + i, count - i), d, out + i);
  }
  for (; i < padded; i += lanes) hn::Store(hn::Zero(d), d, out + i);
}

// Adds one group of 128 to the totals of kRows x kColumns elements. A total is a vector of partial sums.
template <std::int64_t kRows, std::int64_t kColumns, class Weight>
HWY_INLINE void Tile(const float* HWY_RESTRICT a, std::int64_t a_stride, const Weight* HWY_RESTRICT b,
                     std::int64_t b_stride, const float* HWY_RESTRICT a_scale, std::int64_t a_scale_stride,
                     const float* HWY_RESTRICT b_scale, float* HWY_RESTRICT totals) {
  const Tag d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  Vector sums[kRows][kColumns];
#pragma GCC unroll 8
  for (auto& row : sums) {
#pragma GCC unroll 8
    for (auto& sum : row) sum = hn::Zero(d);
  }
  for (std::int64_t k = 0; k < kScaleGroup; k += 2 * lanes) {
#pragma GCC unroll 8
    for (std::int64_t c = 0; c < kColumns; ++c) {
      Vector low, high;
      LoadPair(d, b + c * b_stride + k, low, high);
#pragma GCC unroll 8
      for (std::int64_t r = 0; r < kRows; ++r) {
        const float* x = a + r * a_stride + k;
        sums[r][c] = hn::MulAdd(hn::Load(d, x), low, sums[r][c]);
        sums[r][c] = hn::MulAdd(hn::Load(d, x + lanes), high, sums[r][c]);
      }
    }
  }
#pragma GCC unroll 8
  for (std::int64_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (std::int64_t c = 0; c < kColumns; ++c) {
      float* total = totals + (r * kColumnBlock + c) * lanes;
      const auto scale = hn::Set(d, a_scale[r * a_scale_stride] * b_scale[c]);
      hn::Store(hn::MulAdd(sums[r][c], scale, hn::Load(d, total)), d, total);
    }
  }
}

// The packed block: f32 rows of whole groups, then their scales [rows][groups].
void PackRows(const Gemm& p, std::int64_t first, std::int64_t rows, std::int64_t begin, std::int64_t end,
              std::byte* packed) {
  const std::int64_t groups = scale_groups(p.k);
  const std::int64_t width = groups * kScaleGroup;
  auto* a = reinterpret_cast<float*>(packed);
  float* scales = a + rows * width;
  for (std::int64_t i = begin; i < end; ++i) {
    DecodeRow(p.a, p.a_dtype, (first + i) * p.a_stride, p.k, width, a + i * width);
    for (std::int64_t g = 0; g < groups; ++g)
      scales[i * groups + g] = cpu::scale_of(p.a_scale, first + i, g) * unit_of(p.a_dtype);
  }
}

// One block of rows, packed, and the totals of up to 16 columns.
struct Work {
  const Gemm& p;
  std::int64_t rows;
  std::int64_t groups;
  const float* a;        // [rows][groups * 128]
  const float* a_scale;  // [rows][groups]
  float* staged;         // [16][128]
  float* totals;         // [rows][16] vectors

  std::int64_t width() const { return groups * kScaleGroup; }

  // Group g of columns [j, j + columns) as f32.
  void Stage(std::int64_t j, std::int64_t columns, std::int64_t g) const {
    const std::int64_t k = g * kScaleGroup;
    for (std::int64_t c = 0; c < columns; ++c) {
      DecodeRow(p.b, p.b_dtype, (j + c) * p.b_stride + k, std::min(kScaleGroup, p.k - k), kScaleGroup,
                staged + c * kScaleGroup);
    }
  }

  // The scales of group g of columns [j, j + columns).
  void BScales(std::int64_t j, std::int64_t columns, std::int64_t g, float* scales) const {
    const float unit = unit_of(p.b_dtype);
    const GemmScale& scale = p.b_scale;
    if (scale.data == nullptr || (scale.rows != 1 && j / scale.rows == (j + columns - 1) / scale.rows)) {
      std::fill(scales, scales + columns, cpu::scale_of(scale, j, g) * unit);
      return;
    }
    for (std::int64_t c = 0; c < columns; ++c) scales[c] = cpu::scale_of(scale, j + c, g) * unit;
  }

  // Adds group g of `columns` columns, whose weights are at `b`, to the totals of kRows rows from i on, kWidth
  // columns at a time.
  template <std::int64_t kRows, std::int64_t kWidth, class Weight>
  HWY_INLINE void Add(std::int64_t i, std::int64_t g, const Weight* b, std::int64_t b_stride,
                      std::int64_t columns, const float* b_scale, float* to) const {
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(Tag()));
    const float* rows_a = a + i * width() + g * kScaleGroup;
    const float* rows_scale = a_scale + i * groups + g;
    std::int64_t c = 0;
    for (; c + kWidth <= columns; c += kWidth) {
      Tile<kRows, kWidth>(rows_a, width(), b + c * b_stride, b_stride, rows_scale, groups, b_scale + c,
                          to + c * lanes);
    }
    for (; c < columns; ++c) {
      Tile<kRows, 1>(rows_a, width(), b + c * b_stride, b_stride, rows_scale, groups, b_scale + c,
                     to + c * lanes);
    }
  }
};

// Any number of rows: weights become f32 in a tile in the first cache.
void StagedColumns(const Work& work, std::int64_t j, std::int64_t columns) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(Tag()));
  float b_scale[kColumnBlock];
  for (std::int64_t g = 0; g < work.groups; ++g) {
    work.Stage(j, columns, g);
    work.BScales(j, columns, g, b_scale);
    std::int64_t i = 0;
    for (; i < work.rows; i += i + kTileRows <= work.rows ? kTileRows : 1) {
      float* to = work.totals + i * kColumnBlock * lanes;
      if (i + kTileRows <= work.rows) {
        work.Add<kTileRows, kTileColumns>(i, g, work.staged, kScaleGroup, columns, b_scale, to);
      } else {
        work.Add<1, kTileColumns>(i, g, work.staged, kScaleGroup, columns, b_scale, to);
      }
    }
  }
}

// Few rows: weights go from where they lie through registers into the sums.
template <std::int64_t kRows, class Weight>
void DirectColumns(const Work& work, std::int64_t j0, std::int64_t end) {
  constexpr std::int64_t kWidth = kRows == 1 ? 8 : kRows == 2 ? 4 : 2;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(Tag()));
  const Gemm& p = work.p;
  float b_scale[kDirectColumns];
  for (std::int64_t j = j0; j < end; j += kDirectColumns) {
    const std::int64_t columns = std::min(kDirectColumns, end - j);
    const auto* rows = static_cast<const Weight*>(p.b) + j * p.b_stride;
    float* to = work.totals + (j - j0) * lanes;
    for (std::int64_t g = 0; g < work.groups; ++g) {
      const Weight* b = rows + g * kScaleGroup;
      work.BScales(j, columns, g, b_scale);
      bool stage = (g + 1) * kScaleGroup > p.k;
      if constexpr (sizeof(Weight) == 1) stage = stage || AnyF8Nan(b, p.b_stride, columns);
      if (HWY_UNLIKELY(stage)) {
        work.Stage(j, columns, g);
        work.Add<kRows, kWidth>(0, g, work.staged, kScaleGroup, columns, b_scale, to);
      } else {
        work.Add<kRows, kWidth>(0, g, b, p.b_stride, columns, b_scale, to);
      }
    }
  }
}

template <class Weight>
void DirectColumns(const Work& work, std::int64_t j0, std::int64_t end) {
  if (work.rows == 1) return DirectColumns<1, Weight>(work, j0, end);
  if (work.rows == 2) return DirectColumns<2, Weight>(work, j0, end);
  if (work.rows == 3) return DirectColumns<3, Weight>(work, j0, end);
  DirectColumns<4, Weight>(work, j0, end);
}

void Columns(const Gemm& p, std::int64_t i0, std::int64_t rows, const std::byte* packed, std::int64_t begin,
             std::int64_t end) {
  const Tag d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const std::int64_t groups = scale_groups(p.k);
  const auto* a = reinterpret_cast<const float*>(packed);
  auto* staged = reinterpret_cast<float*>(
      cpu::gemm_scratch((kColumnBlock * kScaleGroup + rows * kColumnBlock * lanes) * 4));
  const Work work{.p = p,
                  .rows = rows,
                  .groups = groups,
                  .a = a,
                  .a_scale = a + rows * groups * kScaleGroup,
                  .staged = staged,
                  .totals = staged + kColumnBlock * kScaleGroup};
  for (std::int64_t j0 = begin; j0 < end; j0 += kColumnBlock) {
    const std::int64_t columns = std::min(kColumnBlock, end - j0);
    std::memset(work.totals, 0, static_cast<std::size_t>(rows * kColumnBlock * lanes) * sizeof(float));
    if (rows > kDirectRows) {
      StagedColumns(work, j0, columns);
    } else if (p.b_dtype == DType::f8e4m3) {
      DirectColumns<std::uint8_t>(work, j0, j0 + columns);
    } else if (p.b_dtype == DType::bf16) {
      DirectColumns<std::uint16_t>(work, j0, j0 + columns);
    } else {
      DirectColumns<float>(work, j0, j0 + columns);
    }
    for (std::int64_t i = 0; i < rows; ++i) {
      for (std::int64_t j = 0; j < columns; ++j) {
        const auto sum = hn::SumOfLanes(d, hn::Load(d, work.totals + (i * kColumnBlock + j) * lanes));
        const std::int64_t index = (i0 + i) * p.out_stride + j0 + j;
        const float base = p.accumulate ? load_element(p.out, p.out_dtype, index) : 0.0f;
        store_element(p.out, p.out_dtype, index, base + hn::GetLane(sum));
      }
    }
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
const GemmKernel gemm_kernel_simd = {kMostRows, packed_bytes, pack, columns};
}  // namespace cpu
}  // namespace fathom
#endif
