// How a warpgroup of the prefill kernel stores its tile of the result, from the registers of the matrix
// instruction.
#pragma once
#include "layout/gemm.cuh"
#include "ptx/barrier.cuh"
#include "ptx/convert.cuh"
#include "ptx/memory.cuh"
#include "ptx/tma.cuh"
#include "sm90/gemm_gate.cuh"
#include "sm90/store_four.cuh"

namespace fathom {

/// Which rows a tile may store: those before `end`, with `ids` those that name `group`. A dense product has one plane.
struct GemmPlace {
  int end = 0;
  int plane = 0;
  i64 offset = 0;  // elements from the start of out to the plane's
  const int* ids = nullptr;
  int group = 0;

  __device__ bool stores(int token) const { return token < end && (ids == nullptr || ids[token] == group); }
};

/// `tile` is the shared address of c.store_bytes(), aligned to 1024.
template <GemmPrefillConfig c>
struct GemmStore {
  const GemmArgs& args;
  u32 tile;
  GemmPlace place_in;

  using Sums = const float (&)[c.subs()][c.block_n / 2];

  /// Rows from token0 of the warpgroup, so many columns from row0.
  __device__ void store(Sums sum, int token0, int row0, u32 group, int columns = c.block_n) const {
    if constexpr (!c.stores_whole()) {
#pragma unroll
      for (int s = 0; s < c.subs(); ++s) store_part(sum[s], token0 + 64 * s, row0, columns);
    } else if (args.out_mapped) {
      store_mapped(sum, token0, row0, group, columns);
    } else {
#pragma unroll
      for (int s = 0; s < c.subs(); ++s) store_rows(sum[s], token0 + 64 * s, row0, columns);
    }
  }

  static constexpr int kRowBytes = c.store_columns() * 2;
  static constexpr int kUnits = kRowBytes / 16;
  /// Where columns 8 * (unit + next) of a row are in the shared tile: the swizzle exchanges units of 16 bytes.
  static __device__ u32 unit_of(int row, int unit, int next = 0) {
    return unit / kUnits * (c.store_rows() * kRowBytes) + row * kRowBytes +
           ((unit % kUnits + next) ^ row / (8 / kUnits) % kUnits) * 16;
  }

  /// bf16 whose rows the copy engine can address: it empties the shared tile during the next one.
  __device__ void store_mapped(Sums sum, int token0, int row0, u32 group, int columns) const {
    const int thread = static_cast<int>(threadIdx.x);
    const int lane = thread % 32;
    const u32 base = tile + group * (c.store_rows() * c.block_n * 2);
    if (thread % 128 == 0) ptx::cp_async_bulk_wait_group_read();
    ptx::bar_sync(2 + group, 128);
#pragma unroll
    for (int s = 0; s < c.subs(); ++s) {
      const int row = 64 * s + thread / 32 % 4 * 16 + lane / 8 % 2 * 8 + lane % 8;
#pragma unroll
      for (int j = 0; j < c.block_n / 8; j += 2) {
        const float* d = sum[s] + 4 * j;
        ptx::stmatrix_x4(base + unit_of(row, j, lane / 16), ptx::cvt_bf16x2(d[0], d[1]), ptx::cvt_bf16x2(d[2], d[3]), ptx::cvt_bf16x2(d[4], d[5]),
                         ptx::cvt_bf16x2(d[6], d[7]));
      }
    }
    ptx::fence_proxy_async();
    ptx::bar_sync(2 + group, 128);
    const bool boxes = columns % c.store_columns() == 0;
    if (c.grouped && (token0 + c.store_rows() > place_in.end || place_in.ids != nullptr || !boxes)) {
      copy_units(base, token0, row0, columns);
    } else if (thread % 128 == 0 && token0 < place_in.end) {
      for (int column = 0; column < columns && row0 + column < args.n; column += c.store_columns()) {
        const u32 from = base + column * (c.store_rows() * 2);
        if constexpr (c.grouped) {
          ptx::cp_async_bulk_tensor_3d_store(&args.out, from, row0 + column, token0, place_in.plane);
        } else {
          ptx::cp_async_bulk_tensor_2d_store(&args.out, from, row0 + column, token0);
        }
      }
      ptx::cp_async_bulk_commit_group();
    }
  }

  /// The same where not all rows are stored, or not all columns of a box.
  __device__ void copy_units(u32 base, int token0, int row0, int columns) const {
    constexpr int kWidth = c.block_n / 8;
    u16* out = static_cast<u16*>(args.out_data) + place_in.offset;
    const int thread = static_cast<int>(ptx::pinned(threadIdx.x)) % 128;  // or addresses are kept while blocks are summed
#pragma unroll 2
    for (int i = thread; i < c.store_rows() * kWidth; i += 128) {
      const int token = token0 + i / kWidth;
      const int column = row0 + i % kWidth * 8;
      if (!place_in.stores(token) || column >= args.n || i % kWidth * 8 >= columns) continue;
      const float4 eight = ptx::ld_shared_4(base + unit_of(i / kWidth, i % kWidth));
      *reinterpret_cast<float4*>(out + token * args.out_row + column) = eight;
    }
  }

  /// Where a whole tile has no room: 64 rows, and the first `columns`.
  __device__ void store_part(const float (&sum)[c.block_n / 2], int token0, int row0, int columns) const {
    if (args.out_mapped) {
      store_units(sum, token0, row0, columns);
    } else {
      store_rows(sum, token0, row0, columns);
    }
  }

  /// bf16 in units of 16 bytes: every warp takes its rows through its own 2 KB, so no warp waits for another, and rows
  /// that are not stored cost nothing.
  __device__ void store_units(const float (&sum)[c.block_n / 2], int token0, int row0, int columns) const {
    const int thread = static_cast<int>(ptx::pinned(threadIdx.x));  // or addresses are kept while blocks are summed
    const int lane = thread % 32;
    const u32 chunk = tile + thread / 32 * c.warp_bytes;
    const auto place_of = [=](int row, int unit) { return chunk + row * 128 + (unit ^ row % 8) * 16; };
    const int token = token0 + thread / 32 % 4 * 16;
    const u32 stored = __ballot_sync(0xffffffff, place_in.stores(token + lane % 16));
    u16* out = static_cast<u16*>(args.out_data) + place_in.offset;
    const int end = c.halves() ? min(args.n, row0 + columns) : args.n;
#pragma unroll
    for (int first = 0; first < c.block_n; first += 64) {
      if (c.thirds() && first >= columns) break;
      __syncwarp();  // what was in the chunk has been read
#pragma unroll
      for (int j = 0; j < 8; j += 2) {
        const float* d = sum + (first / 8 + j) * 4;
        ptx::stmatrix_x4(place_of(lane % 16, j + lane / 16), ptx::cvt_bf16x2(d[0], d[1]), ptx::cvt_bf16x2(d[2], d[3]),
                         ptx::cvt_bf16x2(d[4], d[5]), ptx::cvt_bf16x2(d[6], d[7]));
      }
      __syncwarp();
      const int column = row0 + first + lane % 8 * 8;
#pragma unroll
      for (int row = lane / 8; row < 16; row += 4) {
        const float4 eight = ptx::ld_shared_4(place_of(row, lane % 8));
        if (column < end && (stored >> row & 1)) {
          *reinterpret_cast<float4*>(out + (token + row) * args.out_row + column) = eight;
        }
      }
    }
  }

  // f32, and rows that the engine cannot address. A warp has room for 16 rows of kChunk floats, of a whole tile for half of
  // its sums: they pass through it in goes, and leave in rows.
  static constexpr int kChunk = c.stores_whole() ? c.block_n * c.subs() / 2 : c.warp_bytes / 64;
  static_assert(c.swapped || (c.subs() <= 2 && kChunk % 8 == 0 && c.block_n % kChunk == 0));

  /// Where a column of a chunk's row is, in floats. Units of eight change places such that fragments, eight floats of
  /// four rows at a time, meet all banks.
  static __device__ int place(int row, int column) {
    constexpr int kMask = kChunk % 32 == 0 ? 3 : kChunk % 16 == 0 ? 1 : 0;
    return row * kChunk + (column ^ (kMask == 3 ? row & 3 : row >> 1 & kMask) * 8);
  }

  __device__ void store_rows(const float (&sum)[c.block_n / 2], int token0, int row0, int columns) const {
    const int thread = static_cast<int>(ptx::pinned(threadIdx.x));  // or addresses are kept while blocks are summed
    const int warp = thread / 32;
    const int lane = thread % 32;
    const u32 chunk = tile + warp * (16 * kChunk * 4);
    const int token = token0 + warp % 4 * 16;
#pragma unroll
    for (int first = 0; first < c.block_n; first += kChunk) {
      if (first >= columns) break;
      __syncwarp();  // what was in the chunk has been read
#pragma unroll
      for (int j = 0; j < kChunk / 8; ++j) {
        const float* d = sum + (first / 8 + j) * 4;
        const int column = 8 * j + 2 * (lane % 4);
        // One by one: pairs would put a sum in the same register bank as its product, and each such fma of the main
        // loop would take a cycle more: 8 % of the whole kernel.
        const u32 upper = chunk + 4 * place(lane / 4, column);
        const u32 lower = chunk + 4 * place(lane / 4 + 8, column);
        ptx::st_shared(upper, d[0]);
        ptx::st_shared(upper + 4, d[1]);
        ptx::st_shared(lower, d[2]);
        ptx::st_shared(lower + 4, d[3]);
      }
      __syncwarp();
      copy_chunk(chunk, token, row0 + first, lane);
    }
  }

  __device__ void copy_chunk(u32 chunk, int token0, int column0, int lane) const {
    const bool aligned = args.out_f32 && args.out_row % 4 == 0 && reinterpret_cast<u64>(args.out_data) % 16 == 0;
    // Of the 16 rows, those that are stored: ids are read once, not in a chain with every row's values.
    const u32 stored = c.grouped ? __ballot_sync(0xffffffff, place_in.stores(token0 + lane % 16)) : 0;
#pragma unroll 1
    for (int i = lane; i < 16 * kChunk / 4; i += 32) {
      const int row = i / (kChunk / 4);
      const int column = i % (kChunk / 4) * 4;
      float4 v = ptx::ld_shared_4(chunk + 4 * place(row, column));
      if constexpr (c.grouped) {
        if (stored >> row & 1) store_four(plane(), token0 + row, column0 + column, v);
        continue;
      }
      const int left = args.n - column0 - column;
      if (token0 + row >= args.m || left <= 0) continue;
      if constexpr (!c.fp8) v = gated(args, token0 + row, column0 + column, v);
      const i64 at = (token0 + row) * args.out_row + column0 + column;
      if (aligned && left >= 4) {
        float4* out = reinterpret_cast<float4*>(static_cast<float*>(args.out_data) + at);
        float4 base = {0, 0, 0, 0};
        if (args.accumulate) base = *out;
        *out = args.accumulate ? float4{v.x + base.x, v.y + base.y, v.z + base.z, v.w + base.w} : v;
        continue;
      }
      const float values[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        if (e < left) store_one(at + e, values[e]);
      }
    }
  }

  /// The plane of the tile, as store_four takes it.
  struct Plane {
    void* out_data;
    i64 out_row;
    int n;
    int out_f32;
    static constexpr bool accumulate = false;
  };
  __device__ Plane plane() const {
    return {static_cast<u8*>(args.out_data) + place_in.offset * (args.out_f32 ? 4 : 2), args.out_row, args.n, args.out_f32};
  }

  /// 64 weights by block_n tokens of a warpgroup, turned round on their way through shared memory.
  __device__ void store_swapped(const float (&sum)[c.block_n / 2], int weight0, int token0, u32 group) const {
    const int thread = static_cast<int>(ptx::pinned(threadIdx.x)) % 128;
    const int lane = thread % 32;
    const u32 base = tile + group * (c.block_n * c.swapped_row * 4);
    ptx::bar_sync(2 + group, 128);  // the tile before has been read
    const u32 to = base + 4 * (2 * (lane % 4) * c.swapped_row + thread / 32 * 16 + lane / 4);
#pragma unroll
    for (int j = 0; j < c.block_n / 8; ++j) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const u32 token = to + 4 * (8 * j + i) * c.swapped_row;
        ptx::st_shared(token, sum[4 * j + i]);
        ptx::st_shared(token + 32, sum[4 * j + 2 + i]);
      }
    }
    ptx::bar_sync(2 + group, 128);
#pragma unroll 1
    for (int item = thread; item < c.block_n * 16; item += 128) {
      const int token = token0 + item / 16;
      if (token >= place_in.end) return;
      const float4 v = ptx::ld_shared_4(base + 4 * (item / 16 * c.swapped_row + item % 16 * 4));
      if (place_in.stores(token)) store_four(plane(), token, weight0 + item % 16 * 4, v);
    }
  }

  __device__ void store_one(i64 at, float value) const {
    if (args.out_f32) {
      float* out = static_cast<float*>(args.out_data) + at;
      *out = args.accumulate ? value + *out : value;
    } else {
      static_cast<u16*>(args.out_data)[at] = static_cast<u16>(ptx::cvt_bf16x2(value, 0));
    }
  }
};

}  // namespace fathom
