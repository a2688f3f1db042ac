// out[m, n] = tokens[m, k] * weights[n, k]^T for few tokens, FP8 with scales or bf16.
//
// The weights are what has to be moved, so they are the 64-row operand of the matrix instruction and the tokens
// its columns: 8 tokens waste nothing. k is cut into as many segments as a cluster has blocks. Each block sums one
// segment; then the cluster adds the segments in ascending order through distributed shared memory. For few
// tokens blocks are small enough that several share a multiprocessor and all start at once: what limits is the memory
// alone.
//
// A value is sum over segments of (sum over k blocks of scale * (sum over a block)), each in ascending order: it
// depends on n and k (which fix the segments), not on m or the tile.
#pragma once
#include "layout/gemm.cuh"
#include "ptx/barrier.cuh"
#include "ptx/memory.cuh"
#include "ptx/tma.cuh"
#include "ptx/wgmma.cuh"
#include "sm90/gemm_gate.cuh"
#include "sm90/gemm_scales.cuh"

namespace fathom {

template <GemmDecodeConfig c>
struct GemmDecode {
  static constexpr int kRows = c.rows();
  static constexpr int kTokens = c.tokens;
  static constexpr int kConsumers = 128 * c.groups;
  static constexpr int kWeightBytes = kRows * 128;
  static constexpr int kTokenBytes = kTokens * 128;
  static constexpr int kScaleRow = kTokens + 2;    // floats; two more keep transposed writes off one bank
  static constexpr int kSumRow = kRows + 4;        // floats; four more put the rows of a fragment on all banks
  static constexpr int kStepElements = c.fp8 ? 128 : 64;
  static_assert(c.scale_blocks >= 4 + c.stage_blocks);

  const GemmArgs& args;
  u32 ring;      // shared addresses
  u32 ring_low;  // its descriptor
  u32 barriers;  // full[stages], empty[stages], exchanged
  float* scales;
  float* sums;  // sent: [segments, tokens, share]; else [tokens, kSumRow], of this segment
  int rank, segments;
  int share;  // rows of the tile that this block adds up
  int row0, token0;
  int first, last;  // k blocks of this segment

  __device__ explicit GemmDecode(const GemmArgs& arguments, u8* shared) : args(arguments) {
    const u32 base = ptx::shared_address(shared);
    const u32 aligned = (base + 1023) & ~1023u;
    u8* start = shared + (aligned - base);
    ring = ptx::pinned(aligned);
    ring_low = ptx::pinned(ptx::wgmma_descriptor_low(aligned));
    sums = reinterpret_cast<float*>(c.sends() ? start + c.ring_bytes() : start);
    constexpr int kSumsEnd = c.ring_bytes() + (c.sends() ? c.sum_bytes() : 0);
    scales = reinterpret_cast<float*>(start + kSumsEnd);
    barriers = ptx::pinned(aligned + kSumsEnd + c.scale_bytes());
    rank = static_cast<int>(ptx::cluster_rank());
    segments = static_cast<int>(ptx::cluster_size());
    share = kRows / segments;
    row0 = static_cast<int>(blockIdx.x) / segments * kRows;
    token0 = static_cast<int>(blockIdx.y) * kTokens;
    first = static_cast<int>(static_cast<i64>(args.blocks) * rank / segments);
    last = static_cast<int>(static_cast<i64>(args.blocks) * (rank + 1) / segments);
  }

  __device__ u32 full(int stage) const { return barriers + 8 * stage; }
  __device__ u32 empty(int stage) const { return barriers + 8 * (c.stages + stage); }
  __device__ u32 exchanged() const { return barriers + 16 * c.stages; }
  __device__ u32 weight_tile(int stage, int block) const { return ring + stage * c.stage_bytes() + block * kWeightBytes; }
  __device__ u32 token_tile(int stage, int block) const {
    return ring + stage * c.stage_bytes() + c.stage_blocks * kWeightBytes + block * kTokenBytes;
  }
  __device__ int steps() const { return (last - first + c.stage_blocks - 1) / c.stage_blocks; }
  /// Where a block starts along k. Blocks after the segment's last lie outside of the tensors, so they are zero.
  __device__ int column(int step, int block) const {
    const int index = first + step * c.stage_blocks + block;
    return (index < last ? index : args.blocks) * kStepElements;
  }

  __device__ void load_weights(int step, int stage) const {
    ptx::mbarrier_arrive_expect_tx(full(stage), c.stage_bytes());
    for (int block = 0; block < c.stage_blocks; ++block) {
      const int k = column(step, block);
      ptx::cp_async_bulk_tensor_2d(weight_tile(stage, block), &args.weights, full(stage), k, row0, ptx::kEvictFirst);
    }
  }
  __device__ void load_tokens(int step, int stage) const {
    for (int block = 0; block < c.stage_blocks; ++block) {
      const int k = column(step, block);
      ptx::cp_async_bulk_tensor_2d(token_tile(stage, block), &args.tokens, full(stage), k, token0, ptx::kEvictLast);
    }
  }

  __device__ int live_tokens() const { return min(kTokens, args.m - token0); }

  /// One thread: barriers, and where the grid before may still run, the first ring of weights, which do not depend on
  /// it. Otherwise weights and tokens arrive stage by stage: tokens would have to wait behind all the weights.
  __device__ void start() const {
    for (int stage = 0; stage < c.stages; ++stage) {
      ptx::mbarrier_init(full(stage), 1);
      ptx::mbarrier_init(empty(stage), c.groups);
    }
    ptx::mbarrier_init(exchanged(), 1);
    ptx::fence_mbarrier_init();
    const int ahead = min(steps(), c.stages);
    for (int step = 0; step < ahead; ++step) {
      load_weights(step, step);
      if (!args.overlapped) load_tokens(step, step);
    }
    if (c.sends() && segments > 1) ptx::mbarrier_arrive_expect_tx(exchanged(), live_tokens() * kRows * 4);
  }
  __device__ void produce() const {
    const int count = steps();
    const int ahead = min(count, c.stages);
    if (args.overlapped) {
      ptx::griddepcontrol_wait();
      for (int step = 0; step < ahead; ++step) load_tokens(step, step);
    }
    for (int step = ahead; step < count; ++step) {
      const int stage = step % c.stages;
      ptx::mbarrier_wait(empty(stage), (step / c.stages - 1) & 1);
      load_weights(step, stage);
      load_tokens(step, stage);
    }
  }

  /// The scales a block starts with, on their way before anything is waited for. Those of a token come in fours.
  struct Scales {
    static constexpr int kFours = c.scale_blocks / 4;
    static constexpr int kEach = c.fp8 ? (kFours * kTokens + kConsumers - 1) / kConsumers : 1;
    static constexpr int kHeld = c.scale_blocks / 32;
    static_assert(kHeld == 2);
    float4 token[kEach];
    float weight[kHeld];  // lane i holds k blocks scale_block + 32 * held + i
  };
  __device__ void load_weight_scales(float (&to)[Scales::kHeld], int block) const {
    const int row = row0 + static_cast<int>(threadIdx.x) / 128 * 64;
#pragma unroll
    for (int h = 0; h < Scales::kHeld; ++h) {
      const int at = block + 32 * h + static_cast<int>(threadIdx.x) % 32;
      to[h] = at < last && row < args.n
                  ? args.weight_scale[row / 128 * args.weight_scale_row + at * args.weight_scale_block]
                  : 0;
    }
  }
  /// Item `index` of the token scales: token index / kFours, k blocks from block + 4 * (index % kFours) on.
  __device__ float4 load_token_scales(int index, int block, bool fours) const {
    const int token = token0 + index / Scales::kFours;
    const int at = block + index % Scales::kFours * 4;
    if (token >= args.m || at >= last) return {0, 0, 0, 0};
    float4 v = token_scales(args, token, at, fours);
    // Blocks of the next segment stand in this one's last step as zeros, and must stay so.
    if (at + 1 >= last) v.y = 0;
    if (at + 2 >= last) v.z = 0;
    if (at + 3 >= last) v.w = 0;
    return v;
  }
  __device__ void store_token_scales(int index, float4 v) const {
    float* to = scales + index % Scales::kFours * 4 * kScaleRow + index / Scales::kFours;
    to[0] = v.x;
    to[kScaleRow] = v.y;
    to[2 * kScaleRow] = v.z;
    to[3 * kScaleRow] = v.w;
  }
  __device__ void load_scales(Scales& held) const {
    load_weight_scales(held.weight, scale_start());
    if (args.overlapped) ptx::griddepcontrol_wait();
    const bool fours = scales_in_fours(args);
#pragma unroll
    for (int i = 0; i < Scales::kEach; ++i) {
      held.token[i] = load_token_scales(i * kConsumers + static_cast<int>(threadIdx.x), scale_start(), fours);
    }
  }
  __device__ void store_scales(const Scales& held) const {
#pragma unroll
    for (int i = 0; i < Scales::kEach; ++i) {
      const int index = i * kConsumers + static_cast<int>(threadIdx.x);
      if (index < Scales::kFours * kTokens) store_token_scales(index, held.token[i]);
    }
    ptx::bar_sync(1, kConsumers);
  }
  /// The next scales, in segments of more than scale_blocks.
  __device__ void replace_scales(float (&weight)[Scales::kHeld], int block) const {
    load_weight_scales(weight, block);
    ptx::bar_sync(1, kConsumers);  // the ones before have been read
    const bool fours = scales_in_fours(args);
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < Scales::kFours * kTokens; i += kConsumers) {
      store_token_scales(i, load_token_scales(i, block, fours));
    }
    ptx::bar_sync(1, kConsumers);
  }
  /// Scales are held from a multiple of four on.
  __device__ int scale_start() const { return first / 4 * 4; }

  __device__ void consume(Scales& held) const {
    const int group = __shfl_sync(0xffffffff, static_cast<int>(threadIdx.x) / 128, 0);
    if constexpr (c.fp8) store_scales(held);
    float sum[kTokens / 2];
    for (float& value : sum) value = 0;
    int scale_block = scale_start();
    const int count = steps();
    for (int step = 0; step < count; ++step) {
      const int stage = step % c.stages;
      if constexpr (c.fp8) {
        const int step_block = first + step * c.stage_blocks;
        if (step_block + c.stage_blocks > scale_block + c.scale_blocks) {
          scale_block = step_block / 4 * 4;
          replace_scales(held.weight, scale_block);
        }
        ptx::mbarrier_wait(full(stage), step / c.stages & 1);
        float block_sum[c.stage_blocks][kTokens / 2];
        ptx::wgmma_fence();
#pragma unroll
        for (int b = 0; b < c.stage_blocks; ++b) multiply(block_sum[b], stage, b, group, 0);
        finish(stage);
#pragma unroll
        for (int b = 0; b < c.stage_blocks; ++b) promote(sum, block_sum[b], step_block + b - scale_block, held.weight);
      } else {
        ptx::mbarrier_wait(full(stage), step / c.stages & 1);
        ptx::wgmma_fence();
#pragma unroll
        for (int b = 0; b < c.stage_blocks; ++b) multiply(sum, stage, b, group, 1);
        finish(stage);
        for (float& value : sum) ptx::keep(value);
      }
    }
    if (segments == 1) {
      keep(sum);
      ptx::bar_sync(1, kConsumers);
      reduce();
    } else if constexpr (c.sends()) {
      ptx::cluster_wait();  // every block of the cluster has its barriers
      send(sum);
      ptx::mbarrier_wait(exchanged(), 0);
      reduce();
    } else {
      keep(sum);
      ptx::cluster_wait();
      ptx::cluster_arrive();
      ptx::cluster_wait();
      reduce();
      __syncwarp();
      ptx::cluster_arrive_relaxed();  // nobody leaves while a neighbour fetches its sums
      ptx::cluster_wait();
    }
  }

  __device__ void multiply(float (&d)[kTokens / 2], int stage, int block, int row_tile, int add) const {
    const u32 a = ring_low + (stage * c.stage_bytes() + block * kWeightBytes + row_tile * 64 * 128) / 16;
    const u32 b = ring_low + (stage * c.stage_bytes() + c.stage_blocks * kWeightBytes + block * kTokenBytes) / 16;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      ptx::Wgmma<c.fp8, kTokens>::multiply(d, ptx::wgmma_descriptor(a + 2 * k), ptx::wgmma_descriptor(b + 2 * k),
                                           k > 0 ? 1 : add);
    }
  }

  /// Waits for the products of this warpgroup, after which the stage may be filled again.
  __device__ void finish(int stage) const {
    ptx::wgmma_commit_group();
    ptx::wgmma_wait_group<0>();
    if (threadIdx.x % 128 == 0) ptx::mbarrier_arrive(empty(stage));
  }

  /// sum += token_scale * weight_scale * block_sum, for k block `at` of those whose scales are held.
  __device__ void promote(float (&sum)[kTokens / 2], float (&block_sum)[kTokens / 2], int at,
                          const float (&lane_scale)[Scales::kHeld]) const {
    const float weight_scale = __shfl_sync(0xffffffff, at < 32 ? lane_scale[0] : lane_scale[1], at % 32);
    for (float& value : block_sum) ptx::keep(value);
    const float* row = scales + at * kScaleRow + 2 * (threadIdx.x % 4);
#pragma unroll
    for (int j = 0; j < kTokens / 8; ++j) {
      const float2 token = *reinterpret_cast<const float2*>(row + 8 * j);
      const float low = token.x * weight_scale;
      const float high = token.y * weight_scale;
      sum[4 * j] = fmaf(block_sum[4 * j], low, sum[4 * j]);
      sum[4 * j + 1] = fmaf(block_sum[4 * j + 1], high, sum[4 * j + 1]);
      sum[4 * j + 2] = fmaf(block_sum[4 * j + 2], low, sum[4 * j + 2]);
      sum[4 * j + 3] = fmaf(block_sum[4 * j + 3], high, sum[4 * j + 3]);
    }
  }

  /// Rows [b * share, (b + 1) * share) of the tile go to block b of the cluster.
  __device__ void send(const float (&sum)[kTokens / 2]) const {
    const int thread = static_cast<int>(threadIdx.x);
    const int lane = thread % 32;
    const int live = live_tokens();
    const u32 base = ptx::shared_address(sums) + 4 * rank * kTokens * share;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = thread / 32 * 16 + lane / 4 + 8 * h;
      const u32 to = ptx::mapa(base + 4 * (row % share), row / share);
      const u32 barrier = ptx::mapa(exchanged(), row / share);
#pragma unroll
      for (int j = 0; j < kTokens / 8; ++j) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int token = 8 * j + 2 * (lane % 4) + i;
          if (token < live) ptx::st_async(to + 4 * token * share, sum[4 * j + 2 * h + i], barrier);
        }
      }
    }
  }

  /// sums[token, row], in the place of the ring, which nobody reads or fills any more.
  __device__ void keep(const float (&sum)[kTokens / 2]) const {
    ptx::bar_sync(1, kConsumers);
    const int thread = static_cast<int>(threadIdx.x);
    const int lane = thread % 32;
    float* to = sums + 2 * (lane % 4) * kSumRow + thread / 32 * 16 + lane / 4;
#pragma unroll
    for (int j = 0; j < kTokens / 8; ++j) {
      to[8 * j * kSumRow] = sum[4 * j];
      to[(8 * j + 1) * kSumRow] = sum[4 * j + 1];
      to[8 * j * kSumRow + 8] = sum[4 * j + 2];
      to[(8 * j + 1) * kSumRow + 8] = sum[4 * j + 3];
    }
  }

  /// What segment `s` has for this block's share, four rows of a token.
  __device__ float4 segment_sum(int s, int token, int row) const {
    if (segments == 1) return *reinterpret_cast<const float4*>(sums + token * kSumRow + row);
    if constexpr (c.sends()) {
      return *reinterpret_cast<const float4*>(sums + (s * kTokens + token) * share + row);
    } else {
      return ptx::ld_shared_cluster(ptx::mapa(ptx::shared_address(sums) + 4 * (token * kSumRow + rank * share + row), s));
    }
  }

  /// Adds the segments of this block's share in ascending order. Several items at a time hide the way to the
  /// neighbours.
  __device__ void reduce() const {
    constexpr int kAtOnce = c.sends() ? 1 : 4;
    const int shift = __ffs(share / 4) - 1;  // a power of two
    const int items = live_tokens() << shift;
    const int mask = share / 4 - 1;
    const bool aligned = args.out_row % 4 == 0 && reinterpret_cast<u64>(args.out_data) % 16 == 0;
    for (int item = static_cast<int>(threadIdx.x); item < items; item += kAtOnce * kConsumers) {
      float4 v[kAtOnce];
#pragma unroll
      for (int u = 0; u < kAtOnce; ++u) {
        const int at = item + u * kConsumers;
        if (at < items) v[u] = segment_sum(0, at >> shift, (at & mask) * 4);
      }
      for (int s = 1; s < segments; ++s) {
        float4 next[kAtOnce];
#pragma unroll
        for (int u = 0; u < kAtOnce; ++u) {
          const int at = item + u * kConsumers;
          if (at < items) next[u] = segment_sum(s, at >> shift, (at & mask) * 4);
        }
#pragma unroll
        for (int u = 0; u < kAtOnce; ++u) v[u].x += next[u].x, v[u].y += next[u].y, v[u].z += next[u].z, v[u].w += next[u].w;
      }
#pragma unroll
      for (int u = 0; u < kAtOnce; ++u) {
        const int at = item + u * kConsumers;
        if (at < items) store(v[u], token0 + (at >> shift), row0 + rank * share + (at & mask) * 4, aligned);
      }
    }
  }

  __device__ void store(float4 v, int token, int row, bool aligned) const {
    if constexpr (!c.fp8) v = gated(args, token, row, v);
    const i64 at = token * args.out_row + row;
    float values[4] = {v.x, v.y, v.z, v.w};
    const bool whole = aligned && row + 4 <= args.n;
    if (args.out_f32) {
      float* out = static_cast<float*>(args.out_data) + at;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (args.accumulate && row + i < args.n) values[i] += out[i];
      }
      if (whole) {
        *reinterpret_cast<float4*>(out) = {values[0], values[1], values[2], values[3]};
        return;
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (row + i < args.n) out[i] = values[i];
      }
    } else {
      u16* out = static_cast<u16*>(args.out_data) + at;
      const u32 words[2] = {ptx::cvt_bf16x2(v.x, v.y), ptx::cvt_bf16x2(v.z, v.w)};
      if (whole) {
        *reinterpret_cast<uint2*>(out) = {words[0], words[1]};
        return;
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (row + i < args.n) out[i] = static_cast<u16>(words[i / 2] >> (16 * (i % 2)));
      }
    }
  }

  __device__ void run() const {
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const bool producer = warp == 4 * c.groups;
    Scales held;
    if (!producer) {
      if constexpr (c.fp8) load_scales(held);
    } else if (threadIdx.x % 32 == 0) {
      start();
    }
    __syncwarp();
    if (segments > 1) ptx::cluster_arrive_relaxed();
    __syncthreads();
    ptx::griddepcontrol_launch_dependents();
    if (!producer) {
      consume(held);
    } else {
      if (threadIdx.x % 32 == 0) produce();
      __syncwarp();
      if (segments == 1) return;
      ptx::cluster_wait();
      if constexpr (!c.sends()) {
        ptx::cluster_arrive();
        ptx::cluster_wait();
        ptx::cluster_arrive_relaxed();
        ptx::cluster_wait();
      }
    }
  }
};

template <GemmDecodeConfig c>
__device__ __forceinline__ void gemm_decode(const GemmArgs& args) {
  extern __shared__ unsigned char shared[];
  GemmDecode<c>(args, shared).run();
}

}  // namespace fathom
