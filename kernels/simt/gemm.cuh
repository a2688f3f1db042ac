// The general matrix product: any sizes, strides and scales, on NVIDIA architectures from sm_80. Correct before quick.
//
// An element's sum runs over k in ascending order: 128 products after each other in f32, then the group's sum
// times its scales is added to the total. Nothing else enters, so a row has the same bytes in any batch.
#pragma once
#include "layout/simt_gemm.cuh"
#include "simt/elements.cuh"

namespace fathom::simt {

constexpr int kGroup = 128;  // elements along k with a scale of their own
constexpr int kDepth = 32;   // elements along k in shared memory at a time
constexpr int kSide = 16;    // threads along each side of a tile
constexpr int kEach = kSimtTile / kSide;
static_assert(kSide * kSide == kSimtThreads && kGroup % kDepth == 0);

struct F8e4m3 {
  using Bits = unsigned char;
  static __device__ float to_float(Bits bits) { return f8e4m3_to_float(bits); }
};
struct Bf16 {
  using Bits = unsigned short;
  static __device__ float to_float(Bits bits) { return bf16_to_float(bits); }
};

struct SharedMemory {
  float a[kDepth][kSimtTile + 1];  // one more, so that a column's stores fall into different banks
  float b[kDepth][kSimtTile + 1];
};

/// Columns [k, k + kDepth) of rows [row, row + kSimtTile); zeros beyond the end of the group or of the rows.
template <class Element>
__device__ void load(float (&tile)[kDepth][kSimtTile + 1], const void* data, long long row_stride, long long row,
                     long long rows, long long k, long long end) {
  const auto* bits = static_cast<const typename Element::Bits*>(data);
  for (int i = static_cast<int>(threadIdx.x); i < kSimtTile * kDepth; i += kSimtThreads) {
    const int r = i / kDepth;
    const int c = i % kDepth;
    const bool inside = row + r < rows && k + c < end;
    tile[c][r] = inside ? Element::to_float(bits[(row + r) * row_stride + k + c]) : 0.0f;
  }
}

__device__ inline float scale_of(const SimtScale& scale, long long row, long long rows, long long group) {
  if (scale.data == nullptr || row >= rows) return 1.0f;
  const long long index = row / scale.rows_per_scale * scale.row_stride;
  if (!scale.packed) return static_cast<const float*>(scale.data)[index + group * scale.group_stride];
  const unsigned word = static_cast<const unsigned*>(scale.data)[index + group / 4 * scale.group_stride];
  return ue8m0_to_float(word >> (8 * (group % 4)) & 0xffu);
}

__device__ inline void store(const SimtGemmArgs& args, long long i, long long j, float value) {
  const long long index = i * args.out_row + j;
  if (args.out_bf16) {
    auto* out = static_cast<unsigned short*>(args.out) + index;
    *out = float_to_bf16(args.accumulate ? bf16_to_float(*out) + value : value);
  } else {
    auto* out = static_cast<float*>(args.out) + index;
    *out = args.accumulate ? *out + value : value;
  }
}

struct EveryRow {
  __device__ bool operator()(long long) const { return true; }
};

/// `stores(row)` says whether a row of the tile is wanted.
template <class Element, class Rows = EveryRow, class Weights = Element>
__device__ void compute_tile(const SimtGemmArgs& args, SharedMemory& shared, long long row, long long column,
                             Rows stores = {}) {
  const int x = static_cast<int>(threadIdx.x) % kSide;
  const int y = static_cast<int>(threadIdx.x) / kSide;
  float total[kEach][kEach] = {};
  for (long long group = 0; group * kGroup < args.k; ++group) {
    const long long begin = group * kGroup;
    const long long end = begin + kGroup < args.k ? begin + kGroup : args.k;
    float sum[kEach][kEach] = {};
    for (long long k = begin; k < end; k += kDepth) {
      __syncthreads();  // everybody has read the tiles before
      load<Element>(shared.a, args.a, args.a_row, row, args.m, k, end);
      load<Weights>(shared.b, args.b, args.b_row, column, args.n, k, end);
      __syncthreads();
      // Beyond the end both are zero: that adds +0, which changes no sum.
#pragma unroll 4
      for (int c = 0; c < kDepth; ++c) {
        float a[kEach], b[kEach];
#pragma unroll
        for (int i = 0; i < kEach; ++i) {
          a[i] = shared.a[c][y + i * kSide];
          b[i] = shared.b[c][x + i * kSide];
        }
#pragma unroll
        for (int i = 0; i < kEach; ++i) {
#pragma unroll
          for (int j = 0; j < kEach; ++j) sum[i][j] = __fmaf_rn(a[i], b[j], sum[i][j]);
        }
      }
    }
    float b_scale[kEach];
#pragma unroll
    for (int j = 0; j < kEach; ++j) b_scale[j] = scale_of(args.b_scale, column + x + j * kSide, args.n, group);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const float a_scale = scale_of(args.a_scale, row + y + i * kSide, args.m, group);
#pragma unroll
      for (int j = 0; j < kEach; ++j) total[i][j] = __fmaf_rn(sum[i][j] * a_scale, b_scale[j], total[i][j]);
    }
  }
  for (int i = 0; i < kEach; ++i) {
    for (int j = 0; j < kEach; ++j) {
      const long long r = row + y + i * kSide;
      const long long c = column + x + j * kSide;
      if (r < args.m && c < args.n && stores(r)) store(args, r, c, total[i][j]);
    }
  }
}

/// compute(row, column) of this block's tiles. They are numbered along m first, so that blocks which run together share
/// rows of b.
template <class Compute>
__device__ __forceinline__ void for_each_tile(const SimtGemmArgs& args, Compute compute) {
  const long long rows = (args.m + kSimtTile - 1) / kSimtTile;
  const long long tiles = rows * ((args.n + kSimtTile - 1) / kSimtTile);
  for (long long tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    compute(tile % rows * kSimtTile, tile / rows * kSimtTile);
  }
}

template <class Element>
__device__ void gemm(const SimtGemmArgs& args) {
  __shared__ SharedMemory shared;
  for_each_tile(args, [&](long long row, long long column) { compute_tile<Element>(args, shared, row, column); });
}

}  // namespace fathom::simt
