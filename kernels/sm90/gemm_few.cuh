// out[m, n] = tokens[m, k] * weights[n, k]^T in bf16 for few tokens and few weights: those of a router or a gate.
//
// All operands together are a few megabytes, so what counts is that every byte is asked for at once and soon: no copy engine, no
// ring, and the first loads before anything else. Lanes load straight to registers. The order of k within a product is free as
// long as both operands share it, so the 16 bytes that a lane loads of a row are its part of two products.
//
// A value is sum over segments of k of (sum over warps of (sum over a warp's pairs of blocks of k)), each in ascending order: it
// depends on n and k, not on m or the tile. The blocks of a cluster take a segment each; of a segment, warp w takes pair w and
// every c.warps-th from there. With as_wgmma there are no more pairs than warps, and the values are those of the decode kernel
// with `pairs`: the tensor cores give the same bits for 16 elements of k in either instruction. Those have to be neighbours, so
// 16 bytes of a row are for two lanes, and every warp brings its pair to shared memory and waits for no other's.
#pragma once
#include "layout/gemm_few.cuh"
#include "ptx/barrier.cuh"
#include "ptx/convert.cuh"
#include "ptx/memory.cuh"
#include "ptx/mma.cuh"

namespace fathom {

template <GemmFewConfig c>
struct GemmFew {
  static constexpr int kLines = (c.as_wgmma ? c.tokens : c.rows) / 16;  // of the instruction's 16 rows
  static constexpr int kColumns = (c.as_wgmma ? c.rows : c.tokens) / 8;
  static constexpr int kFours = c.rows / 4;                      // of a token's sums
  static constexpr int kShare = kFours * c.tokens / c.segments;  // fours that a block adds up
  static constexpr int kProducts = c.pair * c.block / 16;        // of a warp at a time
  static constexpr int kRowBytes = 2 * c.pair * c.block;
  static_assert(kFours * c.tokens % c.segments == 0 && 4 * kShare <= c.threads());
  static_assert(4 * c.tokens * c.row() <= c.warp_bytes());

  const GemmFewArgs& args;
  u32 sums;      // shared: of every warp [tokens, c.row()]; as_wgmma first its weights and tokens, rows of kRowBytes, of
                 // which the 16 bytes i of row r are at i ^ r % 8
  u32 received;  // of every segment, for this block: fours [segments, kShare]
  u32 barrier;
  u32 warp, lane;
  u32 rank;
  int row0, token0;

  __device__ explicit GemmFew(const GemmFewArgs& arguments, u8* shared) : args(arguments) {
    sums = ptx::shared_address(shared);
    received = sums + c.warps * c.warp_bytes();
    barrier = received + c.received_bytes();
    warp = threadIdx.x / 32;
    lane = threadIdx.x % 32;
    rank = blockIdx.x % c.segments;
    row0 = static_cast<int>(blockIdx.x / c.segments * c.rows);
    token0 = static_cast<int>(blockIdx.y * c.tokens);
  }

  using Sums = float[kLines][kColumns][4];

  __device__ u32 own() const { return sums + warp * c.warp_bytes(); }

  /// What a lane has of a pair of blocks: of each row four elements for every product of 16.
  struct Operands {
    uint2 weights[kLines][2][kProducts];  // rows lane / 4 and 8 further of every 16
    uint2 tokens[kColumns][kProducts];
  };

  /// What the lane has of a row that starts at `from`; zero unless `live`, and from `end` on.
  __device__ void load_row(uint2 (&to)[kProducts], const u16* from, int first, int end, bool live) const {
    const int column = first + static_cast<int>(lane % 4 * 8);
#pragma unroll
    for (int i = 0; i < kProducts; i += 2) {
      const uint4 eight = ptx::ld_global_early(from + column + 16 * i, live && column < end - 16 * i);
      to[i] = {eight.x, eight.y};
      to[i + 1] = {eight.z, eight.w};
    }
  }
  /// Of the pair that starts at `first`, as far as there is one before `end`.
  __device__ void load(Operands& operands, int first, int end) const {
    const int row = row0 + static_cast<int>(lane / 4);
#pragma unroll
    for (int i = 0; i < 2 * kLines; ++i)
      load_row(operands.weights[i / 2][i % 2], args.weights + (row + 8 * i) * args.weight_row, first, end, row + 8 * i < args.n);
    if (args.overlapped) ptx::griddepcontrol_wait();  // the grid before may write tokens and gates, and read what is written here
    const int token = token0 + static_cast<int>(lane / 4);
#pragma unroll
    for (int i = 0; i < kColumns; ++i)
      load_row(operands.tokens[i], args.tokens + (token + 8 * i) * args.token_row, first, end, token + 8 * i < args.m);
  }
  __device__ static void multiply(Sums& sum, const Operands& operands) {
#pragma unroll
    for (int k = 0; k < kProducts; ++k) {
#pragma unroll
      for (int i = 0; i < kLines; ++i) {
        const uint2 upper = operands.weights[i][0][k];
        const uint2 lower = operands.weights[i][1][k];
        const u32 a[4] = {upper.x, lower.x, upper.y, lower.y};
#pragma unroll
        for (int j = 0; j < kColumns; ++j) {
          const uint2 column = operands.tokens[j][k];
          ptx::mma_bf16(sum[i][j], a, column.x, column.y);
        }
      }
    }
  }

  /// The lane's part of `rows` rows, two in every copy: `from` is where it has 16 bytes of the first, zeros unless `live`.
  __device__ void bring_rows(u32 to, const u16* from, i64 step, int rows, bool live) const {
    const u32 odd = lane / 16;
    const u32 piece = 16 * (lane % 16 ^ odd);
    to += kRowBytes * odd;
    from += odd * step;
    rows -= static_cast<int>(odd);
#pragma unroll 1
    for (int row = 0; row < rows; row += 8) {
#pragma unroll
      for (int i = 0; i < 8; i += 2) {
        ptx::cp_async_16(to + kRowBytes * i + (piece ^ 16 * i), from, live && row + i < rows);
        from += 2 * step;
      }
      to += 8 * kRowBytes;
    }
  }
  /// To shared memory, of the pair that starts at `first`, as far as there is one before `end`. Rows that there are not stay
  /// what they were: nothing of them gets into the others' sums.
  __device__ void bring(int first, int end) const {
    const int column = first + static_cast<int>(lane % 16 * 8);
    bring_rows(own(), args.weights + row0 * args.weight_row + column, args.weight_row, min(c.rows, args.n - row0), column < end);
    if (args.overlapped) ptx::griddepcontrol_wait();
    bring_rows(own() + kRowBytes * c.rows, args.tokens + token0 * args.token_row + column, args.token_row,
               min(c.tokens, args.m - token0), column < end);
  }
  /// Tokens are the 16 rows, so that a tile may have any eight weights.
  __device__ void multiply_shared(Sums& sum) const {
    const u32 bank = lane % 8;
    const u32 weights = own() + kRowBytes * bank;
    const u32 tokens = own() + kRowBytes * (c.rows + lane % 16);
#pragma unroll 1
    for (u32 k = 0; k < kRowBytes; k += 64) {  // two products
      u32 a[2][kLines][4], b[kColumns][4];
#pragma unroll
      for (int j = 0; j < kColumns; ++j) ptx::ldmatrix_x4(b[j], weights + 8 * kRowBytes * j + (k ^ 16 * (lane / 8 ^ bank)));
#pragma unroll
      for (int s = 0; s < 2; ++s) {
#pragma unroll
        for (int i = 0; i < kLines; ++i)
          ptx::ldmatrix_x4(a[s][i], tokens + 16 * kRowBytes * i + ((k + 32 * s) ^ 16 * (lane / 16 ^ bank)));
#pragma unroll
        for (int i = 0; i < kLines; ++i) {
#pragma unroll
          for (int j = 0; j < kColumns; ++j) ptx::mma_bf16(sum[i][j], a[s][i], b[j][2 * s], b[j][2 * s + 1]);
        }
      }
    }
  }

  /// Fours of this tile that are stored. They are counted by tokens, so these are the first.
  __device__ int live() const { return min(c.tokens, args.m - token0) * kFours; }

  /// Gets ready for what the blocks of the cluster send.
  __device__ void prepare() const {
    if (threadIdx.x == 0) {
      const int mine = max(0, min(kShare, live() - static_cast<int>(rank) * kShare));
      ptx::mbarrier_init(barrier, 1);
      ptx::fence_mbarrier_init();
      ptx::mbarrier_arrive_expect_tx(barrier, 16 * c.segments * mine);
    }
    __syncwarp();
    ptx::cluster_arrive_relaxed();
    ptx::griddepcontrol_launch_dependents();
  }

  __device__ void sum_blocks(Sums& sum) const {
    const u32 blocks = static_cast<u32>(args.k + c.block - 1) / c.block;  // at most 2^25
    const u32 last = blocks * (rank + 1) / c.segments;
    u32 block = blocks * rank / c.segments + c.pair * warp;
    const int end = min(args.k, static_cast<int>(last) * c.block);
    const auto start = [&] { return block < last ? static_cast<int>(block) * c.block : end; };  // also where there is none
    if constexpr (c.as_wgmma) {
      bring(start(), end);
      prepare();
      ptx::cp_async_wait_all();
      __syncwarp();
      multiply_shared(sum);
      __syncwarp();
    } else {
      bool first = true;
#pragma unroll 1
      do {
        Operands operands;
        load(operands, start(), end);
        if (first) prepare();
        first = false;
        multiply(sum, operands);
        block += c.pair * c.warps;
      } while (block < last);
    }
  }

  /// Of each eight columns a lane has 2 (lane % 4) and the next, of rows lane / 4 and 8 further.
  __device__ void keep(const Sums& sum) const {
    if constexpr (c.as_wgmma) {
      const u32 to = own() + 4 * (lane / 4 * c.row() + lane % 4 * 2);
#pragma unroll
      for (int i = 0; i < kLines; ++i) {
#pragma unroll
        for (int j = 0; j < kColumns; ++j) {
#pragma unroll
          for (int e = 0; e < 4; e += 2)
            ptx::st_shared_2(to + 4 * ((16 * i + 4 * e) * c.row() + 8 * j), {sum[i][j][e], sum[i][j][e + 1]});
        }
      }
    } else {
      const u32 to = own() + 4 * (lane % 4 * 2 * c.row() + lane / 4);
#pragma unroll
      for (int i = 0; i < kLines; ++i) {
#pragma unroll
        for (int j = 0; j < kColumns; ++j) {
#pragma unroll
          for (int e = 0; e < 4; ++e) ptx::st_shared(to + 4 * ((8 * j + e % 2) * c.row() + 16 * i + e / 2 * 8), sum[i][j][e]);
        }
      }
    }
  }

  /// Adds up the warps' sums in ascending order, and sends each block its share.
  __device__ void send() const {
#pragma unroll 1
    for (int item = static_cast<int>(threadIdx.x); item < live(); item += c.threads()) {
      const u32 from = sums + 4 * (item / kFours * c.row() + item % kFours * 4);
      float4 v = ptx::ld_shared_4(from);
#pragma unroll
      for (int w = 1; w < c.warps; ++w) {
        const float4 next = ptx::ld_shared_4(from + w * c.warp_bytes());
        v.x += next.x, v.y += next.y, v.z += next.z, v.w += next.w;
      }
      const u32 block = item / kShare;
      ptx::st_async_4(ptx::mapa(received + 16 * (rank * kShare + item % kShare), block), v, ptx::mapa(barrier, block));
    }
  }

  /// One value of this block's share, the segments in ascending order. One and not four: the code is not in the cache yet.
  __device__ void store(int share, int item) const {
    ptx::mbarrier_wait(barrier, 0);
    float value = ptx::ld_shared(received + 4 * share);
#pragma unroll
    for (int s = 1; s < c.segments; ++s) value += ptx::ld_shared(received + 4 * share + 16 * kShare * s);
    const int token = token0 + item / c.rows;
    const int column = row0 + item % c.rows;
    if (column >= args.n) return;
    if (args.gated) value *= args.gate == nullptr ? args.gate_factor : args.gate_factor * args.gate[token * args.gate_row + column];
    const i64 at = token * args.out_row + column;
    if (args.out_f32) {
      float* out = static_cast<float*>(args.out_data) + at;
      *out = args.accumulate ? value + *out : value;
    } else {
      static_cast<u16*>(args.out_data)[at] = static_cast<u16>(ptx::cvt_bf16x2(value, 0));
    }
  }

  __device__ void run() const {
    Sums sum = {};
    sum_blocks(sum);
    keep(sum);
    __syncthreads();
    ptx::cluster_wait();  // every block of the cluster has its barrier
    send();
    const int share = static_cast<int>(threadIdx.x);
    const int item = static_cast<int>(rank) * 4 * kShare + share;
    if (share < 4 * kShare && item < 4 * live()) store(share, item);
  }
};

template <GemmFewConfig c>
__device__ __forceinline__ void gemm_few(const GemmFewArgs& args) {
  extern __shared__ unsigned char shared[];
  GemmFew<c>(args, shared).run();
}

}  // namespace fathom
