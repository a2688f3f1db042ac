// Latent attention over a list of entries on Hopper's tensor cores: 64 heads of one token a block, bf16 products with
// sums in f32, for u8 and bf16 caches.
//
// The valid entries, in list order, are taken 64 at a time. A warpgroup gathers them into shared memory as bf16, the
// next 64 while two others multiply. Each of these has 32 of the entries for the scores and 256 of the columns for the
// output; they exchange the rows' maxima and their weights. The sums' order is fixed by the list of valid entries.
#pragma once
#include "layout/sm90_sparse_mla.cuh"
#include "ptx/barrier.cuh"
#include "ptx/convert.cuh"
#include "ptx/memory.cuh"
#include "ptx/tma.cuh"
#include "ptx/wgmma.cuh"
#include "simt/sparse_mla.cuh"

namespace fathom {

struct Sm90Mla {
  static constexpr int kProducers = kSm90MlaThreads - 256;
  static constexpr int kItems = kProducers / 8;  // runs of 128 bytes that the producers have at a time
  static constexpr int kBlockBytes = 64 * 128;  // 64 rows of 64 columns

  const SparseMlaKernel& args;
  bool aligned_q, aligned_out;
  u8* start;
  u32 queries;  // shared addresses
  u32 entries;
  u32 barriers;  // full[2], empty[2]
  int* list;
  float* exchange;  // [2][64]
  int count = 0;    // valid entries
  int head0;
  i64 token;

  __device__ Sm90Mla(const Sm90MlaKernel& arguments, u8* shared)
      : args(arguments.mla), aligned_q(arguments.aligned_q), aligned_out(arguments.aligned_out) {
    const u32 base = ptx::shared_address(shared);
    queries = (base + 1023) & ~1023u;
    start = shared + (queries - base);
    entries = queries + kSm90MlaTile;
    u8* at = start + (1 + kSm90MlaBuffers) * kSm90MlaTile;
    list = reinterpret_cast<int*>(at);
    exchange = reinterpret_cast<float*>(at + 4 * kSm90MlaTopK);
    barriers = ptx::shared_address(at + 4 * kSm90MlaTopK + 8 * kSm90MlaHeads);
    head0 = static_cast<int>(blockIdx.y) * kSm90MlaHeads;
    token = blockIdx.x;
  }
  __device__ u32 full(int buffer) const { return barriers + 8 * buffer; }
  __device__ u32 empty(int buffer) const { return barriers + 16 + 8 * buffer; }
  __device__ int tiles() const { return (count + kSm90MlaEntries - 1) / kSm90MlaEntries; }

  /// Where 16 bytes, `chunk` of row `row`, lie in a tile of blocks with the 128-byte swizzle.
  static __device__ __forceinline__ int place(int row, int chunk) {
    return chunk / 8 * kBlockBytes + row * 128 + ((chunk % 8 ^ row % 8) * 16);
  }

  /// All threads: the valid entries of the token's list, in order.
  __device__ void make_list() {
    __shared__ int sums[kSm90MlaThreads / 32];
    const int thread = static_cast<int>(threadIdx.x);
    const int length = simt::mla_length(args, token);
    for (int first = 0; first < length; first += kSm90MlaThreads) {
      const int i = first + thread;
      const int slot = i < length ? args.indices[token * args.indices_row + i] : -1;
      const bool valid = slot >= 0 && slot < args.slots;
      const u32 mask = __ballot_sync(~0u, valid);
      if (thread % 32 == 0) sums[thread / 32] = __popc(mask);
      __syncthreads();
      int at = count + __popc(mask & (1u << thread % 32) - 1);
      for (int w = 0; w < kSm90MlaThreads / 32; ++w) {
        at += w < thread / 32 ? sums[w] : 0;
        count += sums[w];
      }
      if (valid) list[at] = slot;
      __syncthreads();
    }
  }
  /// All threads: the queries as bf16; heads that do not exist are zeros.
  __device__ void load_queries() const {
    constexpr int kChunks = kSm90MlaBlocks * 8;
    const bool vector = args.q.bf16 && aligned_q;
    for (int i = static_cast<int>(threadIdx.x); i < kSm90MlaHeads * kChunks; i += kSm90MlaThreads) {
      const int row = i / kChunks;
      const int chunk = i % kChunks;
      uint4 words = {0, 0, 0, 0};
      if (head0 + row < args.heads) {
        const i64 from = token * args.q.row + (head0 + row) * args.q.head + 8 * chunk;
        if (vector) {
          words = *reinterpret_cast<const uint4*>(static_cast<const u16*>(args.q.data) + from);
        } else {
          float x[8];
          for (int j = 0; j < 8; ++j) x[j] = simt::load_element(args.q.data, args.q.bf16, from + j);
          words = {ptx::cvt_bf16x2(x[0], x[1]), ptx::cvt_bf16x2(x[2], x[3]), ptx::cvt_bf16x2(x[4], x[5]),
                   ptx::cvt_bf16x2(x[6], x[7])};
        }
      }
      *reinterpret_cast<uint4*>(start + place(row, chunk)) = words;
    }
  }

  /// Two e4m3 values times a scale, as bf16.
  static __device__ __forceinline__ u32 dequantise(u32 codes, float scale) {
    const float2 values = ptx::cvt_f32x2(ptx::cvt_f16x2(static_cast<u16>(codes)));
    return ptx::cvt_bf16x2(values.x * scale, values.y * scale);
  }

  /// A producer: its share of a tile. Eight neighbouring threads have 128 bytes of one entry.
  __device__ __forceinline__ void gather(int tile, int buffer) const {
    const int thread = static_cast<int>(threadIdx.x) % kProducers;
    u8* to = start + (1 + buffer) * kSm90MlaTile;
    const u8* cache = static_cast<const u8*>(args.cache);
    const int part = thread % 8;
#pragma unroll 1
    for (int first = 0; args.element == 1 && first < 4 * kSm90MlaEntries; first += 8 * kItems) {
      uint4 codes[8];
      float scales[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int item = first + i * kItems + thread / 8;  // group of 128 values: entry item / 4, group item % 4
        const int at = tile * kSm90MlaEntries + item / 4;
        codes[i] = {0, 0, 0, 0};
        scales[i] = 0;
        if (at < count) {
          const u8* entry = cache + list[at] * args.cache_row;
          codes[i] = __ldg(reinterpret_cast<const uint4*>(entry + item % 4 * 128) + part);
          scales[i] = __ldg(reinterpret_cast<const float*>(entry + 512) + item % 4);
        }
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int item = first + i * kItems + thread / 8;
        const u32 words[4] = {codes[i].x, codes[i].y, codes[i].z, codes[i].w};
        u32 out[8];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          out[2 * j] = dequantise(words[j], scales[i]);
          out[2 * j + 1] = dequantise(words[j] >> 16, scales[i]);
        }
        const int chunk = item % 4 * 16 + 2 * part;
        *reinterpret_cast<uint4*>(to + place(item / 4, chunk)) = {out[0], out[1], out[2], out[3]};
        *reinterpret_cast<uint4*>(to + place(item / 4, chunk + 1)) = {out[4], out[5], out[6], out[7]};
      }
    }
    if (args.element == 1) {
#pragma unroll
      for (int i = 0; i < kSm90MlaEntries / kItems; ++i) {
        const int row = i * kItems + thread / 8;
        const int at = tile * kSm90MlaEntries + row;
        uint4 words = {0, 0, 0, 0};
        if (at < count) words = __ldg(reinterpret_cast<const uint4*>(cache + list[at] * args.cache_row + 528) + part);
        *reinterpret_cast<uint4*>(to + place(row, 64 + part)) = words;
      }
      return;
    }
#pragma unroll 6
    for (int i = 0; i < kSm90MlaBlocks * kSm90MlaEntries / kItems; ++i) {
      const int item = i * kItems + thread / 8;  // 128 bytes: entry item % 64, block item / 64
      const int row = item % 64;
      const int at = tile * kSm90MlaEntries + row;
      const int chunk = item / 64 * 8 + part;
      uint4 words = {0, 0, 0, 0};
      if (at < count) words = __ldg(reinterpret_cast<const uint4*>(cache + list[at] * args.cache_row) + chunk);
      *reinterpret_cast<uint4*>(to + place(row, chunk)) = words;
    }
  }
  __device__ void produce() const {
    for (int tile = 0; tile < tiles(); ++tile) {
      const int buffer = tile % kSm90MlaBuffers;
      if (tile >= kSm90MlaBuffers) ptx::mbarrier_wait(empty(buffer), (tile / kSm90MlaBuffers - 1) & 1);
      gather(tile, buffer);
      ptx::fence_proxy_async();
      __syncwarp();
      if (threadIdx.x % 32 == 0) ptx::mbarrier_arrive(full(buffer));
    }
  }

  /// Warpgroup `half`: entries 32 * half of each tile, columns 256 * half of the output.
  __device__ __forceinline__ void consume(int half) const {
    const int thread = static_cast<int>(threadIdx.x) % 128;
    const int lane = thread % 32;
    const int row = thread / 32 * 16 + lane / 4;  // and row + 8
    const float scale = args.softmax_scale * 1.44269504f;  // powers of two
    const float lowest = __uint_as_float(0xff800000u);
    float highest[2] = {lowest, lowest};
    float total[2] = {0, 0};  // of this thread's entries
    float sum[128];
#pragma unroll
    for (int i = 0; i < 128; ++i) sum[i] = 0;
    for (int tile = 0; tile < tiles(); ++tile) {
      const int buffer = tile % kSm90MlaBuffers;
      const u32 keys = entries + buffer * kSm90MlaTile;
      ptx::mbarrier_wait(full(buffer), tile / kSm90MlaBuffers & 1);
      float score[16] = {};
      {
        const u32 a = ptx::wgmma_descriptor_low(queries);
        const u32 b = ptx::wgmma_descriptor_low(keys + half * 32 * 128);
        ptx::wgmma_fence();
#pragma unroll
        for (int k = 0; k < 4 * kSm90MlaBlocks; ++k) {
          const u32 step = k / 4 * (kBlockBytes / 16) + k % 4 * 2;
          ptx::Wgmma<false, 32>::multiply(score, ptx::wgmma_descriptor(a + step), ptx::wgmma_descriptor(b + step), k > 0);
        }
        ptx::wgmma_commit_group();
        ptx::wgmma_wait_group<0>();
#pragma unroll
        for (int i = 0; i < 16; ++i) ptx::keep(score[i]);
      }
      const int left = count - tile * kSm90MlaEntries - half * 32;  // entries of this half
      float most[2] = {lowest, lowest};
#pragma unroll
      for (int i = 0; i < 16; ++i) {
        const int column = i / 4 * 8 + lane % 4 * 2 + i % 2;
        score[i] = column < left ? score[i] * scale : lowest;
        most[i / 2 % 2] = fmaxf(most[i / 2 % 2], score[i]);
      }
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        most[h] = fmaxf(most[h], __shfl_xor_sync(~0u, most[h], 1));
        most[h] = fmaxf(most[h], __shfl_xor_sync(~0u, most[h], 2));
        if (lane % 4 == 0) exchange[half * kSm90MlaHeads + row + 8 * h] = most[h];
      }
      ptx::bar_sync(1, 256);  // both halves have read the block of the rotated columns, too: weights go there
      float shrink[2];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        most[h] = fmaxf(most[h], exchange[(1 - half) * kSm90MlaHeads + row + 8 * h]);
        most[h] = fmaxf(most[h], highest[h]);
        shrink[h] = ptx::exp2(highest[h] - most[h]);  // 0 at first
        highest[h] = most[h];
        total[h] *= shrink[h];
      }
      u8* weights = start + (keys - queries) + 8 * kBlockBytes;
#pragma unroll
      for (int i = 0; i < 16; i += 2) {
        const int h = i / 2 % 2;
        const float low = ptx::exp2(score[i] - highest[h]);
        const float high = ptx::exp2(score[i + 1] - highest[h]);
        total[h] += low + high;
        const int at = row + 8 * h;
        const int chunk = half * 4 + i / 4;
        *reinterpret_cast<u32*>(weights + at * 128 + ((chunk ^ at % 8) * 16) + lane % 4 * 4) = ptx::cvt_bf16x2(low, high);
      }
#pragma unroll
      for (int i = 0; i < 128; ++i) sum[i] *= shrink[i / 2 % 2];
      ptx::fence_proxy_async();
      ptx::bar_sync(2, 256);
      {
        const u32 a = ptx::wgmma_descriptor_low(keys + 8 * kBlockBytes);
        const u32 b = ptx::wgmma_transposed_low(keys + half * 4 * kBlockBytes, kBlockBytes);
#pragma unroll
        for (int i = 0; i < 128; ++i) ptx::keep(sum[i]);
        ptx::wgmma_fence();
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          ptx::WgmmaTransposed256::multiply(sum, ptx::wgmma_descriptor(a + 2 * k), ptx::wgmma_descriptor(b + k * 2048 / 16));
        }
        ptx::wgmma_commit_group();
        ptx::wgmma_wait_group<0>();
#pragma unroll
        for (int i = 0; i < 128; ++i) ptx::keep(sum[i]);
      }
      __syncwarp();
      if (lane == 0) ptx::mbarrier_arrive(empty(buffer));
    }
    finish(half, row, sum, total, highest);
  }

  __device__ __forceinline__ void finish(int half, int row, const float (&sum)[128], float (&total)[2],
                                         const float (&highest)[2]) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      total[h] += __shfl_xor_sync(~0u, total[h], 1);
      total[h] += __shfl_xor_sync(~0u, total[h], 2);
    }
    ptx::bar_sync(1, 256);  // the maxima have been read
    for (int h = 0; h < 2; ++h) {
      if (lane % 4 == 0) exchange[half * kSm90MlaHeads + row + 8 * h] = total[h];
    }
    ptx::bar_sync(2, 256);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int head = head0 + row + 8 * h;
      if (head >= args.heads) continue;
      float all = exchange[row + 8 * h] + exchange[kSm90MlaHeads + row + 8 * h];
      if (args.lse != nullptr && half == 0 && lane % 4 == 0) {
        args.lse[token * args.lse_row + head] = 0.693147181f * (highest[h] + log2f(all));
      }
      if (args.sink != nullptr && all != 0) all += exp2f(args.sink[head] * 1.44269504f - highest[h]);
      const float share = all == 0 ? 0.0f : 1.0f / all;  // no entry: zeros
      const i64 to = token * args.out.row + head * args.out.head + half * 256 + lane % 4 * 2;
#pragma unroll
      for (int j = 0; j < 32; ++j) {
        const float low = sum[4 * j + 2 * h] * share;
        const float high = sum[4 * j + 2 * h + 1] * share;
        if (aligned_out && args.out.bf16) {
          *reinterpret_cast<u32*>(static_cast<u16*>(args.out.data) + to + 8 * j) = ptx::cvt_bf16x2(low, high);
        } else if (aligned_out) {
          *reinterpret_cast<float2*>(static_cast<float*>(args.out.data) + to + 8 * j) = {low, high};
        } else {
          simt::store_element(args.out.data, args.out.bf16, to + 8 * j, low);
          simt::store_element(args.out.data, args.out.bf16, to + 8 * j + 1, high);
        }
      }
    }
  }

  __device__ void run() {
    if (threadIdx.x == 0) {
      for (int i = 0; i < kSm90MlaBuffers; ++i) {
        ptx::mbarrier_init(full(i), kProducers / 32);
        ptx::mbarrier_init(empty(i), 8);
      }
      ptx::fence_mbarrier_init();
    }
    make_list();
    load_queries();
    ptx::fence_proxy_async();
    __syncthreads();
    const int group = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 128, 0);
    if (group < 2) {
      ptx::setmaxnreg_inc<208>();
      consume(group);
    } else {
      ptx::setmaxnreg_dec<88>();
      produce();
    }
  }
};

__device__ inline void sm90_sparse_mla(const Sm90MlaKernel& args) {
  extern __shared__ u8 shared[];
  Sm90Mla(args, shared).run();
}

}  // namespace fathom
