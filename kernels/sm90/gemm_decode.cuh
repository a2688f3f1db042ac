// out[m, n] = tokens[m, k] * weights[n, k]^T for few tokens, FP8 with scales or bf16.
//
// The weights are what has to be moved, so they are the 64-row operand of the matrix instruction and the tokens
// its columns: 8 tokens waste nothing. From 64 tokens on it is the other way round: a thread then has sums of two tokens
// instead of many, so it needs two of their scales. k is cut into as many segments as a cluster has blocks. Each block sums one
// segment; then the cluster adds the segments in ascending order through distributed shared memory. For few
// tokens blocks are small enough that several share a multiprocessor and all start at once: what limits is the memory
// alone.
//
// A launch lasts microseconds and starts with nothing in the instruction cache: the code is kept short, with loops that
// are not unrolled wherever they do not multiply.
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
#include "sm90/store_four.cuh"

namespace fathom {

template <GemmDecodeConfig c>
struct GemmDecode {
  static constexpr int kRows = c.rows;
  static constexpr int kTokens = c.tokens;
  static constexpr bool kTokenRows = kTokens >= 64;  // tokens are the 64-row operand
  static constexpr int kSplit = kTokenRows ? c.groups * 64 / kTokens : c.groups;  // warpgroups that share the rows
  static constexpr int kColumns = (kTokenRows ? kRows : kTokens) / kSplit;        // of a warpgroup's product
  static constexpr int kConsumers = 128 * c.groups;
  static constexpr int kWeightBytes = kRows * 128;
  static constexpr int kTokenBytes = kTokens * 128;
  static constexpr int kStepElements = c.fp8 ? 128 : 64;
  static_assert(!c.pairs || c.stage_blocks == 2);

  const GemmArgs& args;
  u32 ring;      // shared addresses
  u32 ring_low;  // its descriptor
  u32 scales;    // [tokens, scale_row]
  u32 barriers;  // full[stages], empty[stages], exchanged
  float* sums;      // of this block, in the place of the ring: [tokens, rows + 4], or fragments
  float* received;  // of every block, for this one: [segments, tokens, share], or fragments [segments, kPer]
  int rank;
  int shift;  // there are 1 << shift segments
  int share;  // rows of the tile that this block adds up
  int row0, token0;
  int first, last;  // k blocks of this segment

  __device__ explicit GemmDecode(const GemmArgs& arguments, u8* shared) : args(arguments) {
    const u32 base = ptx::shared_address(shared);
    const u32 aligned = (base + 1023) & ~1023u;
    u8* start = shared + (aligned - base);
    ring = ptx::pinned(aligned);
    ring_low = ptx::pinned(ptx::wgmma_descriptor_low(aligned));
    sums = reinterpret_cast<float*>(start);
    received = reinterpret_cast<float*>(start + c.ring_bytes());
    scales = ptx::pinned(aligned + c.ring_bytes() + c.received_bytes());
    barriers = ptx::pinned(scales + c.scale_bytes());
    rank = static_cast<int>(ptx::cluster_rank());
    shift = 31 - __clz(static_cast<int>(ptx::cluster_size()));
    share = kRows >> shift;
    row0 = (static_cast<int>(blockIdx.x) >> shift) * kRows;
    token0 = static_cast<int>(blockIdx.y) * kTokens;
    first = args.blocks * rank >> shift;
    last = args.blocks * (rank + 1) >> shift;
  }

  __device__ int segments() const { return 1 << shift; }
  __device__ u32 full(int stage) const { return barriers + 8 * stage; }
  __device__ u32 empty(int stage) const { return barriers + 8 * (c.stages + stage); }
  __device__ u32 exchanged() const { return barriers + 16 * c.stages; }
  __device__ int steps() const { return (last - first + c.stage_blocks - 1) / c.stage_blocks; }
  __device__ int live_tokens() const { return min(kTokens, args.m - token0); }

  /// Where a block starts along k. Blocks after the segment's last lie outside of the tensors, so they are zero.
  __device__ int column(int step, int block) const {
    const int index = first + step * c.stage_blocks + block;
    return (index < last ? index : args.blocks) * kStepElements;
  }
  __device__ void load_weights(int step, int stage) const {
    ptx::mbarrier_arrive_expect_tx(full(stage), c.stage_bytes());
    const u32 to = ring + stage * c.stage_bytes();
    for (int block = 0; block < c.stage_blocks; ++block) {
      ptx::cp_async_bulk_tensor_2d(to + block * kWeightBytes, &args.weights, full(stage), column(step, block), row0,
                                   ptx::kEvictFirst);
    }
  }
  __device__ void load_tokens(int step, int stage) const {
    const u32 to = ring + stage * c.stage_bytes() + c.stage_blocks * kWeightBytes;
    for (int block = 0; block < c.stage_blocks; ++block) {
      ptx::cp_async_bulk_tensor_2d(to + block * kTokenBytes, &args.tokens, full(stage), column(step, block), token0,
                                   ptx::kEvictLast);
    }
  }

  /// One thread.
  __device__ void initialise() const {
    ptx::prefetch_tensormap(&args.weights);
    ptx::prefetch_tensormap(&args.tokens);
#pragma unroll 1
    for (int stage = 0; stage < c.stages; ++stage) {
      ptx::mbarrier_init(full(stage), 1);
      ptx::mbarrier_init(empty(stage), c.groups);
    }
    ptx::mbarrier_init(exchanged(), 1);
    ptx::fence_mbarrier_init();
    if (shift > 0) {
      const int tokens = kTokenRows ? kTokens : live_tokens();
      ptx::mbarrier_arrive_expect_tx(exchanged(), tokens * kRows * 4);
    }
  }
  /// One thread. Where the grid before may still run, the first ring of weights, which do not depend on it, comes before
  /// all tokens. Otherwise they arrive stage by stage: tokens would have to wait behind all the weights.
  __device__ void produce() const {
    const int early = args.overlapped ? min(steps(), c.stages) : 0;
#pragma unroll 1
    for (int step = 0; step < early; ++step) load_weights(step, step);
    if (args.overlapped) ptx::griddepcontrol_wait();
    int stage = 0;
    u32 phase = 1;  // of a barrier on which nothing has been waited for, the phase before its first counts as completed
#pragma unroll 1
    for (int step = 0; step < steps(); ++step) {
      ptx::mbarrier_wait(empty(stage), phase);
      if (step >= early) load_weights(step, stage);
      load_tokens(step, stage);
      if (++stage == c.stages) {
        stage = 0;
        phase ^= 1;
      }
    }
  }

  /// Scales of the blocks from `block` on, a multiple of four. Those of tokens go to shared memory, in the background
  /// where the caller's layout allows; those of weights to registers: lane i of a warp holds blocks 32 * h + i.
  struct Scales {
    int block;
    float weight[c.scale_blocks() / 32];
  };
  __device__ void load_scales(Scales& held, int block) const {
    held.block = block;
    const int thread = static_cast<int>(threadIdx.x);
    const float* weight = args.weight_scale + row0 / 128 * args.weight_scale_row;
#pragma unroll
    for (int h = 0; h < c.scale_blocks() / 32; ++h) {
      const int at = block + 32 * h + thread % 32;
      held.weight[h] = at < last ? weight[at * args.weight_scale_block] : 0;
    }
    constexpr int kFours = c.scale_blocks() / 4;
    const RowScales from = token_row_scales(args);
    const bool fours = in_fours(from, args.blocks);
    // As far as the segment's last step goes: what no token or block has must be finite all the same.
    const int end = (last - block + c.stage_blocks + 2) / 4;
#pragma unroll 1
    for (int i = thread; i < live_tokens() * kFours; i += kConsumers) {
      const int token = token0 + i / kFours;
      const int four = i % kFours;
      const int at = block + 4 * four;
      const bool live = at < args.blocks;
      const u32 to = scales + 4 * (i / kFours * c.scale_row() + 4 * four);
      if (four >= end) continue;
      if (fours) {
        ptx::cp_async_16(to, static_cast<const float*>(from.data) + token * from.row + (live ? at : 0), live);
      } else {
        const float4 zero = {0, 0, 0, 0};
        ptx::st_shared_4(to, live ? four_scales(from, args.blocks, token, at) : zero);
      }
    }
  }

  __device__ void consume() const {
    if (args.overlapped) ptx::griddepcontrol_wait();  // scales, and what is written, may belong to the grid before
    const int group = __shfl_sync(0xffffffff, static_cast<int>(threadIdx.x) / 128, 0);
    float sum[kColumns / 2];
    for (float& value : sum) value = 0;
    if constexpr (c.fp8) {
      sum_blocks(sum, group);
    } else {
      sum_plain(sum, group);
    }
    if (kTokenRows ? c.most_segments > 1 : shift > 0) {
      ptx::cluster_wait();  // every block of the cluster has its barriers
      if constexpr (kTokenRows) {
        send_fragments(sum);
      } else {
        send(sum);
      }
      ptx::mbarrier_wait(exchanged(), 0);
      return add_segments();  // the shortest way there: the code is not in the cache yet
    }
    ptx::bar_sync(1, kConsumers);  // nobody in this block reads or fills the ring any more
    if constexpr (kTokenRows) {
      keep_fragments(sum);
    } else {
      keep(sum);
    }
    add_segments();
  }
  __device__ void add_segments() const {
    if constexpr (kTokenRows) {
      add_fragments();
    } else {
      add_rows();
    }
  }

  __device__ void sum_blocks(float (&sum)[kColumns / 2], int group) const {
    Scales held;
    held.block = -c.scale_blocks();
    int stage = 0;
    u32 phase = 0;
    bool fresh = false;  // scales that may not have arrived
#pragma unroll 1
    for (int block = first; block < last; block += c.stage_blocks) {
      if (block + c.stage_blocks > held.block + c.scale_blocks()) {
        if (block > first) ptx::bar_sync(1, kConsumers);  // the ones before have been read
        load_scales(held, block / 4 * 4);
        fresh = true;
      }
      ptx::mbarrier_wait(full(stage), phase);
      float products[c.stage_blocks][kColumns / 2];
      ptx::wgmma_fence();
#pragma unroll
      for (int b = 0; b < c.stage_blocks; ++b) multiply(products[b], stage, b, group, 0);
      ptx::wgmma_commit_group();
      if (fresh) {
        ptx::cp_async_wait_all();
        ptx::bar_sync(1, kConsumers);
        fresh = false;
      }
      ptx::wgmma_wait_group<0>();
      next(stage, phase);
#pragma unroll
      for (int b = 0; b < c.stage_blocks; ++b) promote(sum, products[b], block + b - held.block, held);
    }
  }
  /// bf16: one chain of products, or with `pairs` one for every stage.
  __device__ void sum_plain(float (&sum)[kColumns / 2], int group) const {
    int stage = 0;
    u32 phase = 0;
#pragma unroll 1
    for (int block = first; block < last; block += c.stage_blocks) {
      ptx::mbarrier_wait(full(stage), phase);
      float pair[kColumns / 2];
      auto& chain = c.pairs ? pair : sum;
      ptx::wgmma_fence();
#pragma unroll
      for (int b = 0; b < c.stage_blocks; ++b) multiply(chain, stage, b, group, !c.pairs || b > 0 ? 1 : 0);
      ptx::wgmma_commit_group();
      ptx::wgmma_wait_group<0>();
      next(stage, phase);
      for (float& value : chain) ptx::keep(value);
#pragma unroll
      for (int i = 0; c.pairs && i < kColumns / 2; ++i) sum[i] += pair[i];
    }
  }

  __device__ void multiply(float (&d)[kColumns / 2], int stage, int block, int group, int add) const {
    const u32 weights = ring_low + (stage * c.stage_bytes() + block * kWeightBytes) / 16;
    const u32 tokens = ring_low + (stage * c.stage_bytes() + c.stage_blocks * kWeightBytes + block * kTokenBytes) / 16;
    const u32 a = kTokenRows ? tokens + group / kSplit * (64 * 128 / 16) : weights;
    const u32 b = (kTokenRows ? weights : tokens) + group % kSplit * (kColumns * 128 / 16);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      ptx::Wgmma<c.fp8, kColumns>::multiply(d, ptx::wgmma_descriptor(a + 2 * k), ptx::wgmma_descriptor(b + 2 * k),
                                           k > 0 ? 1 : add);
    }
  }
  /// This warpgroup has read the stage: it may be filled again.
  __device__ void next(int& stage, u32& phase) const {
    if (threadIdx.x % 128 == 0) ptx::mbarrier_arrive(empty(stage));
    if (++stage == c.stages) {
      stage = 0;
      phase ^= 1;
    }
  }

  /// Fragments: a thread has lines first_line() and 8 further, and of every eight columns first_column() and the next.
  /// Lines are weights and columns tokens, or with kTokenRows the other way round.
  __device__ static int first_line(int thread = static_cast<int>(threadIdx.x)) {
    return (kTokenRows ? thread / 128 / kSplit * 64 : 0) + thread % 128 / 32 * 16 + thread % 32 / 4;
  }
  __device__ int first_column() const {
    return static_cast<int>(threadIdx.x) / 128 % kSplit * kColumns + static_cast<int>(threadIdx.x) % 4 * 2;
  }

  /// With kTokenRows four sums change hands together, those that a thread has of eight columns. Counted by columns and
  /// then threads, each block adds up the next kPer of them. They go in the order of `four`, as four registers in a row:
  /// the other way round each would be in the register bank of its product, and the fma that adds them up would wait.
  static constexpr int kPer = kTokens * kRows / 4 / c.most_segments;
  static_assert(!kTokenRows || kPer % 32 == 0);

  static __device__ float4 four(const float (&sum)[kColumns / 2], int j) {
    return {sum[4 * j + 1], sum[4 * j], sum[4 * j + 3], sum[4 * j + 2]};
  }
  __device__ void send_fragments(const float (&sum)[kColumns / 2]) const {
    const u32 base = ptx::shared_address(received) + 16 * rank * kPer;
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j) {
      const int item = j * kConsumers + static_cast<int>(threadIdx.x);
      const int block = item / kPer;
      ptx::st_async_4(ptx::mapa(base + 16 * (item - block * kPer), block), four(sum, j),
                      ptx::mapa(exchanged(), block));
    }
  }
  __device__ void keep_fragments(const float (&sum)[kColumns / 2]) const {
    const u32 base = ptx::shared_address(sums) + 16 * threadIdx.x;
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j) ptx::st_shared_4(base + 16 * kConsumers * j, four(sum, j));
  }
  /// Adds the segments in ascending order. Neighbouring threads have halves of two tokens' four columns: they swap, and
  /// each stores one.
  __device__ void add_fragments() const {
    const u32 from = ptx::shared_address(c.most_segments > 1 ? received : sums);
    const bool odd = threadIdx.x % 2 != 0;
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < kPer; i += kConsumers) {
      float4 v = ptx::ld_shared_4(from + 16 * i);
#pragma unroll
      for (int s = 1; s < c.most_segments; ++s) {
        const float4 next = ptx::ld_shared_4(from + 16 * (s * kPer + i));
        v.x += next.x, v.y += next.y, v.z += next.z, v.w += next.w;
      }
      const float first = __shfl_xor_sync(~0u, odd ? v.y : v.w, 1);
      const float second = __shfl_xor_sync(~0u, odd ? v.x : v.z, 1);
      v = odd ? float4{first, second, v.w, v.z} : float4{v.y, v.x, first, second};
      const int item = rank * kPer + i;
      const int thread = item % kConsumers;
      const int token = first_line(thread) + (odd ? 8 : 0);
      const int column = row0 + thread / 128 % kSplit * kColumns + item / kConsumers * 8 + thread % 4 / 2 * 4;
      if (token >= live_tokens()) continue;
      if constexpr (!c.fp8) v = gated(args, token0 + token, column, v);
      store_four(args, token0 + token, column, v);
    }
  }

  /// sum += token_scale * weight_scale * products, for the block `at` of those whose scales are held.
  __device__ void promote(float (&sum)[kColumns / 2], float (&products)[kColumns / 2], int at, const Scales& held) const {
    float weight = __shfl_sync(0xffffffff, held.weight[0], at % 32);
#pragma unroll
    for (int h = 1; h < c.scale_blocks() / 32; ++h) {
      const float other = __shfl_sync(0xffffffff, held.weight[h], at % 32);
      if (at / 32 == h) weight = other;
    }
    for (float& value : products) ptx::keep(value);
    if constexpr (kTokenRows) {
      const u32 token = scales + 4 * (first_line() * c.scale_row() + at);
      const float low = ptx::ld_shared(token) * weight;
      const float high = ptx::ld_shared(token + 4 * 8 * c.scale_row()) * weight;
#pragma unroll
      for (int j = 0; j < kColumns / 8; ++j) {
        sum[4 * j] = fmaf(products[4 * j], low, sum[4 * j]);
        sum[4 * j + 1] = fmaf(products[4 * j + 1], low, sum[4 * j + 1]);
        sum[4 * j + 2] = fmaf(products[4 * j + 2], high, sum[4 * j + 2]);
        sum[4 * j + 3] = fmaf(products[4 * j + 3], high, sum[4 * j + 3]);
      }
    } else {
      const u32 token = scales + 4 * (first_column() * c.scale_row() + at);
#pragma unroll
      for (int j = 0; j < kColumns / 8; ++j) {
        const float low = ptx::ld_shared(token + 4 * 8 * j * c.scale_row()) * weight;
        const float high = ptx::ld_shared(token + 4 * (8 * j + 1) * c.scale_row()) * weight;
        sum[4 * j] = fmaf(products[4 * j], low, sum[4 * j]);
        sum[4 * j + 1] = fmaf(products[4 * j + 1], high, sum[4 * j + 1]);
        sum[4 * j + 2] = fmaf(products[4 * j + 2], low, sum[4 * j + 2]);
        sum[4 * j + 3] = fmaf(products[4 * j + 3], high, sum[4 * j + 3]);
      }
    }
  }

  /// Rows [b * share, (b + 1) * share) of the tile go to block b of the cluster.
  __device__ void send(const float (&sum)[kColumns / 2]) const {
    const int live = live_tokens();
    const u32 base = ptx::shared_address(received) + 4 * rank * kTokens * share;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = first_line() + 8 * h;
      const int block = row >> (31 - __clz(share));
      const u32 to = ptx::mapa(base + 4 * (row - block * share), block);
      const u32 barrier = ptx::mapa(exchanged(), block);
#pragma unroll
      for (int j = 0; j < kColumns / 8; ++j) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int token = first_column() + 8 * j + i;
          if (token < live) ptx::st_async(to + 4 * token * share, sum[4 * j + 2 * h + i], barrier);
        }
      }
    }
  }

  __device__ void keep(const float (&sum)[kColumns / 2]) const {
    constexpr int kDistance = kRows + 4;
    float* to = sums + first_line() + first_column() * kDistance;
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) to[(8 * j + i % 2) * kDistance + i / 2 * 8] = sum[4 * j + i];
    }
    ptx::bar_sync(1, kConsumers);
  }

  /// What segment `s` has for this block's share, four rows of a token.
  __device__ float4 segment_sum(int s, int token, int row) const {
    const float* from = shift > 0 ? received + (s * kTokens + token) * share : sums + token * (kRows + 4);
    return *reinterpret_cast<const float4*>(from + row);
  }

  /// Adds the segments of this block's share in ascending order.
  __device__ void add_rows() const {
    const int fours = 29 - __clz(share);  // a token has 1 << fours times four rows
#pragma unroll 1
    for (int item = static_cast<int>(threadIdx.x); item < live_tokens() << fours; item += kConsumers) {
      const int token = item >> fours;
      const int row = (item - (token << fours)) * 4;
      float4 v = segment_sum(0, token, row);
#pragma unroll 1
      for (int s = 1; s < segments(); ++s) {
        const float4 next = segment_sum(s, token, row);
        v.x += next.x, v.y += next.y, v.z += next.z, v.w += next.w;
      }
      const int column = row0 + rank * share + row;
      if constexpr (!c.fp8) v = gated(args, token0 + token, column, v);
      store_four(args, token0 + token, column, v);
    }
  }

  __device__ void run() const {
    const bool producer = threadIdx.x >= kConsumers;
    if (producer && threadIdx.x % 32 == 0) initialise();
    __syncwarp();
    if (shift > 0) ptx::cluster_arrive_relaxed();
    __syncthreads();
    ptx::griddepcontrol_launch_dependents();
    if (!producer) return consume();
    if (threadIdx.x % 32 == 0) produce();
    __syncwarp();
    if (shift > 0) ptx::cluster_wait();
  }
};

template <GemmDecodeConfig c>
__device__ __forceinline__ void gemm_decode(const GemmArgs& args) {
  extern __shared__ unsigned char shared[];
  GemmDecode<c>(args, shared).run();
}

}  // namespace fathom
