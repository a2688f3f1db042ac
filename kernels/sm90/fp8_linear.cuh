// out[m, n] = quantised(x[m, k]) * weights[n, k]^T for up to 16 tokens in bf16: quantisation and product in one launch.
//
// As in gemm_decode.cuh, the weights are the 64-row operand and k is cut into as many segments as a cluster has blocks.
// The tokens of a stage arrive in bf16, and warps of the block quantise them into the swizzle that the matrix instruction
// reads. Arithmetic and order are those of quantize_groups and then the decode kernel, so the bytes are too:
// every block that needs a token quantises it again, which costs less than a launch.
#pragma once
#include "layout/fp8_linear.cuh"
#include "ptx/barrier.cuh"
#include "ptx/memory.cuh"
#include "ptx/tma.cuh"
#include "ptx/wgmma.cuh"
#include "simt/group_quant.cuh"
#include "sm90/store_four.cuh"

namespace fathom {

template <Fp8LinearConfig c, int kRule, bool kUe8m0>
struct Fp8Linear {
  static constexpr int kTokens = c.tokens;
  static constexpr int kWeightBytes = c.rows * 128;
  static constexpr int kTokenBytes = kTokens * 128;
  static constexpr int kSumRow = c.rows + 4;
  static constexpr int kConsumers = 128;
  static constexpr int kQuantisers = 4;  // warps, after those of the consumers

  const Fp8LinearKernelArgs& args;
  u32 ring, raw, barriers;
  float* scales;  // [stages, stage_blocks, tokens], of token and weights
  float* sums;    // [tokens, kSumRow]
  int rank, segments;
  int row0, first, last;  // k blocks of this segment
  int steps;

  __device__ explicit Fp8Linear(const Fp8LinearKernelArgs& arguments, u8* shared) : args(arguments) {
    const u32 base = ptx::shared_address(shared);
    const u32 aligned = (base + 1023) & ~1023u;
    u8* start = shared + (aligned - base);
    ring = aligned;
    raw = aligned + c.stages * c.stage_bytes();
    scales = reinterpret_cast<float*>(start + c.stages * c.stage_bytes() + c.raw_bytes());
    sums = scales + c.scale_bytes() / 4;
    barriers = raw + c.raw_bytes() + c.scale_bytes() + c.sum_bytes();
    rank = static_cast<int>(ptx::cluster_rank());
    segments = static_cast<int>(ptx::cluster_size());
    row0 = static_cast<int>(blockIdx.x) / segments * c.rows;
    const i64 blocks = (args.k + 127) / 128;
    first = static_cast<int>(blocks * rank / segments);
    last = static_cast<int>(blocks * (rank + 1) / segments);
    steps = (last - first + c.stage_blocks - 1) / c.stage_blocks;
  }

  __device__ u32 full(int stage) const { return barriers + 8 * stage; }
  __device__ u32 empty(int stage) const { return barriers + 8 * (c.stages + stage); }
  __device__ u32 raw_full(int stage) const { return barriers + 8 * (2 * c.stages + stage); }
  /// Half a k block of the tokens in bf16.
  __device__ u32 raw_tile(int stage, int half) const { return raw + (2 * c.stage_blocks * stage + half) * kTokenBytes; }
  __device__ u32 weight_tile(int stage, int block) const { return ring + stage * c.stage_bytes() + block * kWeightBytes; }
  __device__ u32 token_tile(int stage, int block) const {
    return ring + stage * c.stage_bytes() + c.stage_blocks * kWeightBytes + block * kTokenBytes;
  }
  __device__ float* stage_scales(int stage, int block) const {
    return scales + (stage * c.stage_blocks + block) * kTokens;
  }

  /// Blocks after the segment's last lie outside of the tensor, so they are zero.
  __device__ int column(int step, int block) const {
    const int index = first + step * c.stage_blocks + block;
    return index < last ? index * 128 : (args.k + 127) / 128 * 128;
  }
  __device__ void load_weights(int step, int stage) const {
    ptx::mbarrier_arrive_expect_tx(full(stage), c.stage_blocks * kWeightBytes);
    for (int block = 0; block < c.stage_blocks; ++block) {
      ptx::cp_async_bulk_tensor_2d(weight_tile(stage, block), &args.weights, full(stage), column(step, block), row0,
                                   ptx::kEvictFirst);
    }
  }
  __device__ void load_tokens(int step, int stage) const {
    ptx::mbarrier_arrive_expect_tx(raw_full(stage), c.stage_blocks * kTokens * 256);
    for (int half = 0; half < 2 * c.stage_blocks; ++half) {
      ptx::cp_async_bulk_tensor_2d(raw_tile(stage, half), &args.x, raw_full(stage), column(step, half / 2) + half % 2 * 64,
                                   0, ptx::kEvictLast);
    }
  }
  /// One thread: barriers, and the first ring of weights, which do not depend on the grid before.
  __device__ void start() const {
    for (int stage = 0; stage < c.stages; ++stage) {
      ptx::mbarrier_init(full(stage), 1 + live_warps());
      ptx::mbarrier_init(empty(stage), kConsumers / 32);
      ptx::mbarrier_init(raw_full(stage), 1);
    }
    ptx::fence_mbarrier_init();
    for (int step = 0; step < min(steps, c.stages); ++step) {
      if (!args.overlapped) load_tokens(step, step);
      load_weights(step, step);
    }
  }
  __device__ void produce() const {
    if (args.overlapped) {
      ptx::griddepcontrol_wait();
      for (int step = 0; step < min(steps, c.stages); ++step) load_tokens(step, step);
    }
    for (int step = c.stages; step < steps; ++step) {
      const int stage = step % c.stages;
      ptx::mbarrier_wait(empty(stage), (step / c.stages - 1) & 1);  // so its tokens have been quantised as well
      load_tokens(step, stage);
      load_weights(step, stage);
    }
  }

  /// Eight lanes have a group of 128, 16 values each; a warp has both k blocks of two tokens, and of two more where a
  /// tile has 16.
  static_assert(c.stage_blocks == 2);
  /// Warps that have a token. The columns of tokens that do not exist hold what they hold: nobody reads their sums.
  __device__ int live_warps() const { return min(kQuantisers, (args.m + 1) / 2); }

  /// Lane i holds the scales of the weights for k blocks first + i, first + 32 + i, ...
  static constexpr int kHeld = 4;
  __device__ float weight_scale(const float (&held)[kHeld], int block) const {
    const int at = block / 32;
    const float mine = at == 0 ? held[0] : at == 1 ? held[1] : at == 2 ? held[2] : held[3];
    return __shfl_sync(~0u, mine, block % 32);
  }

  __device__ void quantise(int token, int block, int lane, int stage, float weights) const {
    float v[16];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      // Rows of 128 bytes as the copy engine swizzles them: half a block of a token in bf16.
      const int unit = lane % 4 * 2 + i;
      const float4 bits = ptx::ld_shared_4(raw_tile(stage, 2 * block + lane / 4 % 2) + token * 128 + (unit ^ token % 8) * 16);
      const float pairs[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        v[8 * i + 2 * j] = __uint_as_float(__float_as_uint(pairs[j]) << 16);
        v[8 * i + 2 * j + 1] = __uint_as_float(__float_as_uint(pairs[j]) & 0xffff0000u);
      }
    }
    const simt::GroupScale group = simt::group_scale<kRule, kUe8m0>(simt::team_amax(v));
#pragma unroll
    for (float& value : v) value = simt::scaled<kRule, kUe8m0>(value, group);
    u32 codes[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      codes[i] =
          simt::float_to_f8e4m3x2(v[4 * i], v[4 * i + 1]) | simt::float_to_f8e4m3x2(v[4 * i + 2], v[4 * i + 3]) << 16;
    }
    ptx::st_shared_4(token_tile(stage, block) + token * 128 + (lane % 8 ^ token % 8) * 16, codes);
    if (lane % 8 == 0) stage_scales(stage, block)[token] = group.scale * weights;
  }
  __device__ void quantise_all() const {
    const int warp = static_cast<int>(threadIdx.x) / 32 - kConsumers / 32;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int token = 2 * warp + lane / 16;
    const int block = lane / 8 % 2;
    float held[kHeld];
#pragma unroll
    for (int h = 0; h < kHeld; ++h) {
      const int at = first + 32 * h + lane;
      held[h] = at < last && row0 < args.n
                    ? args.weight_scale[row0 / 128 * args.weight_scale_row + at * args.weight_scale_block]
                    : 0;
    }
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
      const int stage = step % c.stages;
      const u32 phase = step / c.stages & 1;
      const float even = weight_scale(held, step * c.stage_blocks);
      const float odd = weight_scale(held, step * c.stage_blocks + 1);
      ptx::mbarrier_wait(raw_full(stage), phase);
      if (step >= c.stages) ptx::mbarrier_wait(empty(stage), phase ^ 1);
#pragma unroll
      for (int pass = 0; pass < kTokens / 8; ++pass) {
        quantise(token + 8 * pass, block, lane, stage, block == 0 ? even : odd);
      }
      ptx::fence_proxy_async();  // the matrix instruction reads what was stored
      __syncwarp();
      if (lane == 0) ptx::mbarrier_arrive(full(stage));
    }
  }

  __device__ void consume() const {
    float sum[kTokens / 2];
    for (float& value : sum) value = 0;
    const u32 ring_low = ptx::wgmma_descriptor_low(ring);
    const int lane = static_cast<int>(threadIdx.x) % 32;
    for (int step = 0; step < steps; ++step) {
      const int stage = step % c.stages;
      ptx::mbarrier_wait(full(stage), step / c.stages & 1);
      float block_sum[c.stage_blocks][kTokens / 2];
      ptx::wgmma_fence();
#pragma unroll
      for (int b = 0; b < c.stage_blocks; ++b) {
        const u32 weights = ring_low + (weight_tile(stage, b) - ring) / 16;
        const u32 tokens = ring_low + (token_tile(stage, b) - ring) / 16;
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          ptx::Wgmma<true, kTokens>::multiply(block_sum[b], ptx::wgmma_descriptor(weights + 2 * k),
                                              ptx::wgmma_descriptor(tokens + 2 * k), k > 0);
        }
      }
      ptx::wgmma_commit_group();
      float2 scale[c.stage_blocks][kTokens / 8];
#pragma unroll
      for (int b = 0; b < c.stage_blocks; ++b) {
#pragma unroll
        for (int j = 0; j < kTokens / 8; ++j) {
          scale[b][j] = *reinterpret_cast<const float2*>(stage_scales(stage, b) + 8 * j + 2 * (lane % 4));
        }
      }
      ptx::wgmma_wait_group<0>();
      __syncwarp();
      if (lane == 0) ptx::mbarrier_arrive(empty(stage));
#pragma unroll
      for (int b = 0; b < c.stage_blocks; ++b) {
        for (float& value : block_sum[b]) ptx::keep(value);
#pragma unroll
        for (int i = 0; i < kTokens / 2; ++i) {
          sum[i] = fmaf(block_sum[b][i], i % 2 == 0 ? scale[b][i / 4].x : scale[b][i / 4].y, sum[i]);
        }
      }
    }
    const int row = static_cast<int>(threadIdx.x) / 32 * 16 + lane / 4;
#pragma unroll
    for (int i = 0; i < kTokens / 2; ++i) {
      sums[(i / 4 * 8 + lane % 4 * 2 + i % 2) * kSumRow + row + i / 2 % 2 * 8] = sum[i];
    }
  }

  /// Adds the segments of this block's share of the rows in ascending order.
  __device__ void reduce() const {
    const int share = c.rows / segments;
    const u32 from = ptx::shared_address(sums);
    for (int item = static_cast<int>(threadIdx.x); item < args.m * share / 4; item += c.threads) {
      const int token = item / (share / 4);
      const int row = rank * share + item % (share / 4) * 4;
      const u32 place = from + 4 * (token * kSumRow + row);
      float4 v = ptx::ld_shared_4(place);
      if (segments > 1) {
        v = ptx::ld_shared_cluster(ptx::mapa(place, 0));
        for (int s = 1; s < segments; ++s) {
          const float4 next = ptx::ld_shared_cluster(ptx::mapa(place, s));
          v.x += next.x, v.y += next.y, v.z += next.z, v.w += next.w;
        }
      }
      store_four(args, token, row0 + row, v);
    }
  }

  __device__ void run() const {
    const int warp = __shfl_sync(0xffffffff, static_cast<int>(threadIdx.x) / 32, 0);
    constexpr int kLoader = kConsumers / 32 + kQuantisers;
    const bool quantises = warp >= kConsumers / 32 && warp < kConsumers / 32 + live_warps();
    if (threadIdx.x == kLoader * 32) start();
    __syncthreads();
    ptx::griddepcontrol_launch_dependents();
    if (warp < kConsumers / 32) {
      consume();
    } else if (quantises) {
      quantise_all();
    } else if (threadIdx.x == kLoader * 32) {
      produce();
    }
    __syncthreads();
    if (segments > 1) {
      ptx::cluster_arrive();
      ptx::cluster_wait();
    }
    if (args.overlapped) ptx::griddepcontrol_wait();  // what it writes, the grid before may read
    reduce();
    if (segments > 1) {
      __syncwarp();
      ptx::cluster_arrive_relaxed();  // nobody leaves while a neighbour fetches its sums
      ptx::cluster_wait();
    }
  }
};

template <Fp8LinearConfig c, int kRule, bool kUe8m0>
__device__ __forceinline__ void fp8_linear(const Fp8LinearKernelArgs& args) {
  extern __shared__ unsigned char shared[];
  Fp8Linear<c, kRule, kUe8m0>(args, shared).run();
}

}  // namespace fathom
