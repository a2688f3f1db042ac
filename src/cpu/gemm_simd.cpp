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

// 128 elements are whole vectors of every target we ship (4, 8 and 16 lanes).
using Tag = hn::CappedTag<float, 16>;
using Vector = hn::Vec<Tag>;

constexpr std::int64_t kColumnBlock = 16;  // columns of a decoded weight tile: 8 KB of f32
constexpr std::int64_t kTileRows = 4;
// 16 sums in registers where there are 32 registers, else 8.
constexpr std::int64_t kTileColumns = HWY_TARGET == HWY_AVX3 ? 4 : 2;

// `count` elements as f32, and zeros up to `padded`, a multiple of 128.
HWY_NOINLINE void DecodeRow(const void* data, DType dtype, std::int64_t first, std::int64_t count,
                            std::int64_t padded, float* out) {
  const Tag d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  std::int64_t i = 0;
  if (dtype == DType::f8e4m3) {
    const auto* codes = static_cast<const std::uint8_t*>(data) + first;
    for (; i + lanes <= count; i += lanes) hn::Store(DecodeF8(d, codes + i), d, out + i);
    HWY_ALIGN std::uint8_t rest[16] = {};
    for (std::int64_t j = i; j < count; ++j) rest[j - i] = codes[j];
    if (i < count) hn::Store(DecodeF8(d, rest), d, out + i);
  } else {
    for (; i < count; i += lanes) hn::Store(LoadFloats(d, data, dtype, first + i, count - i), d, out + i);
  }
  for (i = (count + lanes - 1) / lanes * lanes; i < padded; i += lanes) hn::Store(hn::Zero(d), d, out + i);
}

// Adds one group of 128 to the totals of kRows x kColumns elements. A total is a vector of partial sums.
template <std::int64_t kRows, std::int64_t kColumns>
HWY_INLINE void Tile(const float* HWY_RESTRICT a, std::int64_t a_stride, const float* HWY_RESTRICT b,
                     const float* HWY_RESTRICT a_scale, std::int64_t a_scale_stride,
                     const float* HWY_RESTRICT b_scale, float* HWY_RESTRICT totals) {
  const Tag d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  Vector sums[kRows][kColumns];
  for (auto& row : sums) {
    for (auto& sum : row) sum = hn::Zero(d);
  }
  for (std::int64_t k = 0; k < kScaleGroup; k += lanes) {
    Vector columns[kColumns];
    for (std::int64_t c = 0; c < kColumns; ++c) columns[c] = hn::Load(d, b + c * kScaleGroup + k);
    for (std::int64_t r = 0; r < kRows; ++r) {
      const auto x = hn::Load(d, a + r * a_stride + k);
      for (std::int64_t c = 0; c < kColumns; ++c) sums[r][c] = hn::MulAdd(x, columns[c], sums[r][c]);
    }
  }
  for (std::int64_t r = 0; r < kRows; ++r) {
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
    for (std::int64_t g = 0; g < groups; ++g) scales[i * groups + g] = cpu::scale_of(p.a_scale, first + i, g);
  }
}

void Columns(const Gemm& p, std::int64_t i0, std::int64_t rows, const std::byte* packed, std::int64_t begin,
             std::int64_t end) {
  const Tag d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const std::int64_t groups = scale_groups(p.k);
  const std::int64_t width = groups * kScaleGroup;
  const auto* a = reinterpret_cast<const float*>(packed);
  const float* a_scale = a + rows * width;
  float* tile = reinterpret_cast<float*>(
      cpu::gemm_scratch((kColumnBlock * kScaleGroup + rows * kColumnBlock * lanes) * 4));
  float* totals = tile + kColumnBlock * kScaleGroup;
  float b_scale[kColumnBlock];
  for (std::int64_t j0 = begin; j0 < end; j0 += kColumnBlock) {
    const std::int64_t columns = std::min(kColumnBlock, end - j0);
    std::memset(totals, 0, static_cast<std::size_t>(rows * kColumnBlock * lanes) * sizeof(float));
    for (std::int64_t g = 0; g < groups; ++g) {
      const std::int64_t k0 = g * kScaleGroup;
      for (std::int64_t j = 0; j < columns; ++j) {
        DecodeRow(p.b, p.b_dtype, (j0 + j) * p.b_stride + k0, std::min(kScaleGroup, p.k - k0), kScaleGroup,
                  tile + j * kScaleGroup);
        b_scale[j] = cpu::scale_of(p.b_scale, j0 + j, g);
      }
      const auto run = [&]<std::int64_t kRows>(std::int64_t i, std::integral_constant<std::int64_t, kRows>) {
        std::int64_t j = 0;
        for (; j + kTileColumns <= columns; j += kTileColumns) {
          Tile<kRows, kTileColumns>(a + i * width + k0, width, tile + j * kScaleGroup,
                                    a_scale + i * groups + g, groups, b_scale + j,
                                    totals + (i * kColumnBlock + j) * lanes);
        }
        for (; j < columns; ++j) {
          Tile<kRows, 1>(a + i * width + k0, width, tile + j * kScaleGroup, a_scale + i * groups + g, groups,
                         b_scale + j, totals + (i * kColumnBlock + j) * lanes);
        }
      };
      std::int64_t i = 0;
      for (; i + kTileRows <= rows; i += kTileRows) run(i, std::integral_constant<std::int64_t, kTileRows>{});
      for (; i < rows; ++i) run(i, std::integral_constant<std::int64_t, 1>{});
    }
    for (std::int64_t i = 0; i < rows; ++i) {
      for (std::int64_t j = 0; j < columns; ++j) {
        const auto sum = hn::SumOfLanes(d, hn::Load(d, totals + (i * kColumnBlock + j) * lanes));
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
