// The product of every group of a batch on tensor cores: bf16 tokens by the group's weights in bf16 or f8e4m3.
//
// A block has 128 columns of a group. Their weights are brought to shared memory once, as bf16, which holds every e4m3
// value; then tokens pass by, 64 at a time and 128 of k at a time, in two buffers. A block of 128 of k is summed on
// the tensor cores and, with its scale, added to what came before: the same sums for any number of tokens.
#pragma once
#include "layout/sm90_batched_gemm.cuh"
#include "ptx/barrier.cuh"
#include "ptx/convert.cuh"
#include "ptx/memory.cuh"
#include "ptx/tma.cuh"
#include "ptx/wgmma.cuh"
#include "simt/elements.cuh"

namespace fathom {

/// Where 16 bytes, `chunk` of row `row`, lie in blocks of 64 columns and `rows` rows with the 128-byte swizzle.
__device__ __forceinline__ u32 batched_place(int row, int chunk, int rows) {
  return static_cast<u32>(chunk / 8 * rows * 128 + row * 128 + ((chunk % 8 ^ row % 8) * 16));
}

template <bool kFp8>
struct Sm90BatchedGemm {
  static constexpr int kThreads = kSm90BatchedThreads;
  static constexpr int kColumns = kSm90BatchedColumns;
  static constexpr int kTokens = kSm90BatchedTokens;

  const SimtBatchedGemmArgs& batch;
  const SimtGemmArgs& args;
  u32 weights;  // shared addresses
  u32 tokens;
  u8* weights_at;
  i64 group;
  i64 column0;
  int k;
  int blocks;  // of 128 along k

  __device__ Sm90BatchedGemm(const SimtBatchedGemmArgs& all, u8* shared) : batch(all), args(all.gemm) {
    const u32 base = ptx::shared_address(shared);
    weights = (base + 1023) & ~1023u;
    weights_at = shared + (weights - base);
    k = static_cast<int>(args.k);
    blocks = (k + 127) / 128;
    tokens = weights + blocks * kSm90BatchedWeights;
  }

  /// Columns and parts of rows that do not exist are zeros.
  __device__ void load_weights() const {
    const int thread = static_cast<int>(threadIdx.x);
    const u8* from = static_cast<const u8*>(args.b) + (group * batch.b_group + column0 * args.b_row) * (kFp8 ? 1 : 2);
    if constexpr (kFp8) {
      constexpr int kAtOnce = 4;
      const int pieces = kColumns * 8 * blocks;  // of 16 codes, a multiple of all threads' loads at once
#pragma unroll 1
      for (int begin = thread; begin < pieces; begin += kAtOnce * kThreads) {
        uint4 codes[kAtOnce];
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          const int piece = begin + i * kThreads;
          const int row = piece / 8 % kColumns;
          const int at = piece / 8 / kColumns * 128 + piece % 8 * 16;
          codes[i] = {0, 0, 0, 0};
          if (column0 + row < args.n && at < k) {
            codes[i] = __ldg(reinterpret_cast<const uint4*>(from + row * args.b_row + at));
          }
        }
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          const int piece = begin + i * kThreads;
          const int row = piece / 8 % kColumns;
          const int chunk = piece / 8 / kColumns * 16 + piece % 8 * 2;
          *reinterpret_cast<uint4*>(weights_at + batched_place(row, chunk, kColumns)) = two_words(codes[i].x, codes[i].y);
          *reinterpret_cast<uint4*>(weights_at + batched_place(row, chunk + 1, kColumns)) =
              two_words(codes[i].z, codes[i].w);
        }
      }
    } else {
#pragma unroll 4
      for (int piece = thread; piece < kColumns * 16 * blocks; piece += kThreads) {
        const int row = piece / 16 % kColumns;
        const int chunk = piece / 16 / kColumns * 16 + piece % 16;
        const bool live = column0 + row < args.n && 8 * chunk < k;
        ptx::cp_async_16(weights + batched_place(row, chunk, kColumns),
                         from + (live ? 2 * (row * args.b_row + 8 * chunk) : 0), live);
      }
    }
  }

  /// Eight e4m3 values as bf16, which holds them all.
  static __device__ __forceinline__ uint4 two_words(u32 first, u32 second) {
    const auto two = [](u32 codes) {
      const float2 values = ptx::cvt_f32x2(ptx::cvt_f16x2(static_cast<u16>(codes)));
      return ptx::cvt_bf16x2(values.x, values.y);
    };
    return {two(first), two(first >> 16), two(second), two(second >> 16)};
  }

  __device__ void load_tokens(i64 token0, int block, int buffer) const {
    const u8* from = static_cast<const u8*>(args.a) + 2 * (group * batch.a_group + 128 * block);
#pragma unroll 4
    for (int piece = static_cast<int>(threadIdx.x); piece < kTokens * 16; piece += kThreads) {
      const int row = piece / 16;
      const int chunk = piece % 16;
      const bool live = token0 + row < args.m && 128 * block + 8 * chunk < k;
      ptx::cp_async_16(tokens + buffer * kSm90BatchedBlock + batched_place(row, chunk, kTokens),
                       from + (live ? 2 * ((token0 + row) * args.a_row + 8 * chunk) : 0), live);
    }
  }

  __device__ void multiply(float (&d)[32], int block, int buffer) const {
    const int half = static_cast<int>(threadIdx.x) / 128 * (kColumns / 2);
    u32 a = ptx::wgmma_descriptor_low(tokens + buffer * kSm90BatchedBlock);
    u32 b = ptx::wgmma_descriptor_low(weights + block * kSm90BatchedWeights + half * 128);
    ptx::wgmma_fence();
#pragma unroll
    for (int step = 0; step < 8; ++step) {
      ptx::Wgmma<false, 64>::multiply(d, ptx::wgmma_descriptor(a + step / 4 * (kTokens * 128 / 16) + step % 4 * 2),
                                      ptx::wgmma_descriptor(b + step / 4 * (kColumns * 128 / 16) + step % 4 * 2),
                                      step > 0 || (!kFp8 && block > 0));
    }
    ptx::wgmma_commit_group();
    ptx::wgmma_wait_group<0>();
#pragma unroll
    for (int i = 0; i < 32; ++i) ptx::keep(d[i]);
  }

  /// The tile's results; in bf16 by way of shared memory, where rows are written in whole.
  __device__ __forceinline__ void store(const float (&v)[32], i64 token0) const {
    const int thread = static_cast<int>(threadIdx.x);
    const int lane = thread % 32;
    const int first = thread / 128 * (kColumns / 2) + 2 * (lane % 4);
    const int row = thread % 128 / 32 * 16 + lane / 4;
    if (args.out_bf16 && aligned_out()) {
      u8* staged = weights_at + (tokens - weights) + 2 * kSm90BatchedBlock;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          *reinterpret_cast<u32*>(staged + (row + 8 * h) * kSm90BatchedRow + 2 * (first + 8 * j)) =
              ptx::cvt_bf16x2(v[4 * j + 2 * h], v[4 * j + 2 * h + 1]);
        }
      }
      __syncthreads();
      u16* out = static_cast<u16*>(args.out) + token0 * args.out_row + group * batch.out_group + column0;
#pragma unroll
      for (int piece = thread; piece < kTokens * kColumns / 8; piece += kThreads) {
        const int to = piece / (kColumns / 8);
        const int column = piece % (kColumns / 8) * 8;
        if (token0 + to < args.m && column0 + column < args.n) {
          *reinterpret_cast<uint4*>(out + to * args.out_row + column) =
              *reinterpret_cast<const uint4*>(staged + to * kSm90BatchedRow + 2 * column);
        }
      }
      return;
    }
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      const i64 token = token0 + row + i % 4 / 2 * 8;
      const i64 column = column0 + first + i / 4 * 8 + i % 2;
      if (token < args.m && column < args.n) {
        simt::store_element(args.out, args.out_bf16, token * args.out_row + group * batch.out_group + column, v[i]);
      }
    }
  }
  __device__ __forceinline__ bool aligned_out() const {
    return args.n % 8 == 0 && args.out_row % 8 == 0 && batch.out_group % 8 == 0 &&
           reinterpret_cast<u64>(args.out) % 16 == 0;
  }

  __device__ void run(i64 token0, int tiles) {
    const auto scale_at = [this](int block) {
      return kFp8 ? static_cast<const float*>(args.b_scale.data)[group * batch.b_scale_group +
                                                                column0 / 128 * args.b_scale.row_stride +
                                                                block * args.b_scale.group_stride]
                  : 1.0f;
    };
    load_tokens(token0, 0, 0);
    load_weights();
    float sums[32];
    int block = 0;
    i64 token = token0;
    const int turns = tiles * blocks;
#pragma unroll 1
    for (int turn = 0; turn < turns; ++turn) {
      const float scale = scale_at(block);
      ptx::cp_async_wait_all();
      ptx::fence_proxy_async();
      __syncthreads();  // all of this buffer is there, and the other has been multiplied
      const int next = block + 1 == blocks ? 0 : block + 1;
      const i64 next_token = next == 0 ? token + kTokens : token;
      if (turn + 1 < turns) load_tokens(next_token, next, (turn + 1) % 2);
      if constexpr (kFp8) {
        float d[32];
        multiply(d, block, turn % 2);
#pragma unroll
        for (int i = 0; i < 32; ++i) sums[i] = block == 0 ? scale * d[i] : __fmaf_rn(scale, d[i], sums[i]);
      } else {
        multiply(sums, block, turn % 2);
      }
      if (next == 0) store(sums, token);
      block = next;
      token = next_token;
    }
  }
};

template <bool kFp8>
__device__ void sm90_batched_gemm(const Sm90BatchedGemmArgs& args) {
  extern __shared__ u8 shared[];
  Sm90BatchedGemm<kFp8> block(args.product, shared);
  const u32 part = blockIdx.x / args.column_tiles;
  block.column0 = static_cast<i64>(blockIdx.x % args.column_tiles) * kSm90BatchedColumns;
  block.group = part / args.token_parts;
  constexpr i64 kPart = i64{kSm90BatchedTiles} * kSm90BatchedTokens;
  const i64 token0 = part % args.token_parts * kPart;
  const i64 left = args.product.gemm.m - token0;
  block.run(token0, static_cast<int>(((left < kPart ? left : kPart) + kSm90BatchedTokens - 1) / kSm90BatchedTokens));
}

}  // namespace fathom
