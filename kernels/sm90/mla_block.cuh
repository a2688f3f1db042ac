// What the Hopper attention kernels share: a block's list of entries, its queries, the gathering of entries into shared
// memory as bf16, and the joining of partial results, of warpgroups and of the blocks of a cluster.
//
// The valid entries of a token are numbered in list order. Block r of the cluster has the entries from r * part on, at
// most `part`, and takes them 64 at a time: a tile. Two of its four warpgroups gather tiles into two buffers while the
// others multiply, who meet at named barrier 5; who makes the list meets at 6. So all sums are fixed by the list of
// valid entries and by `part`, the class of the call.
#pragma once
#include "layout/sm90_sparse_mla.cuh"
#include "ptx/barrier.cuh"
#include "ptx/convert.cuh"
#include "ptx/memory.cuh"
#include "ptx/tma.cuh"
#include "ptx/wgmma.cuh"
#include "simt/sparse_mla.cuh"

namespace fathom {

template <int kHeads>
struct Sm90MlaBlock {
  static constexpr int kParts = sm90_mla_parts(kHeads);
  static constexpr int kBlockBytes = 64 * 128;           // 64 columns of a tile's rows
  static constexpr int kQueryBlockBytes = kHeads * 128;  // and of the queries
  static constexpr int kProducers = kSm90MlaProducers;
  static constexpr int kConsumers = kSm90MlaThreads - kProducers;
  static constexpr float kLog2E = 1.44269504f;

  const Sm90MlaKernel& kernel;
  const SparseMlaKernel& args;
  u8* start;      // of what is in shared memory: the queries
  u32 queries;    // the same as a shared address
  int count = 0;  // entries of this block
  int head0;
  int token;

  __device__ Sm90MlaBlock(const Sm90MlaKernel& arguments, u8* shared) : kernel(arguments), args(arguments.mla) {
    const u32 base = ptx::shared_address(shared);
    queries = (base + 1023) & ~1023u;
    start = shared + (queries - base);
    take(static_cast<int>(blockIdx.x) / kernel.blocks);
  }
  __device__ static int rank() { return static_cast<int>(ptx::cluster_rank()); }
  static constexpr int kTilesAt = kSm90MlaBlocks * kQueryBlockBytes;
  static constexpr int kListAt = kTilesAt + kSm90MlaBuffers * kSm90MlaTile;
  static constexpr int kExchangeAt = kListAt + 4 * kSm90MlaTopK;
  static constexpr int kStatisticsAt = kExchangeAt + 4 * kSm90MlaExchange;
  static constexpr int kBarriersAt = kStatisticsAt + 4 * kSm90MlaStatistics;
  __device__ u32 entries() const { return queries + kTilesAt; }
  __device__ u8* tiles_at() const { return start + kTilesAt; }
  __device__ int* list() const { return reinterpret_cast<int*>(start + kListAt); }
  __device__ float* exchange() const { return reinterpret_cast<float*>(start + kExchangeAt); }
  /// [kParts][maximum, total][kHeads]
  __device__ float* statistics() const { return reinterpret_cast<float*>(start + kStatisticsAt); }
  /// Blocks of the cluster that have entries; the first may be without.
  __device__ int* used() const { return reinterpret_cast<int*>(start + kBarriersAt + 32); }
  /// Sums of warps while the list is made.
  __device__ int* list_sums() const { return reinterpret_cast<int*>(start + kBarriersAt + 64); }
  __device__ int* counts() const { return reinterpret_cast<int*>(start + kBarriersAt + 36); }
  __device__ u32 listed() const { return queries + kBarriersAt + 48; }
  __device__ u32 taken() const { return queries + kBarriersAt + 56; }
  __device__ u32 full(int buffer) const { return queries + kBarriersAt + 8 * buffer; }
  __device__ u32 empty(int buffer) const { return queries + kBarriersAt + 16 + 8 * buffer; }
  __device__ int tiles() const { return (count + kSm90MlaEntries - 1) / kSm90MlaEntries; }

  /// Where 16 bytes, `chunk` of row `row`, lie in blocks of `block` bytes with the 128-byte swizzle.
  static __device__ __forceinline__ int place(int row, int chunk, int block) {
    return chunk / 8 * block + row * 128 + ((chunk % 8 ^ row % 8) * 16);
  }

  /// Item i of the call: one token's group of heads. Blocks that have the same entries are neighbours.
  __device__ void take(int item) {
    token = item;
    head0 = 0;
    if (kHeads == 64) {
      const int groups = (args.heads + kHeads - 1) / kHeads;
      head0 = token % groups * kHeads;
      token = token / groups;
    }
  }
  /// All threads.
  __device__ void begin() {
    if (threadIdx.x == 0) {
      for (int i = 0; i < kSm90MlaBuffers; ++i) {
        ptx::mbarrier_init(full(i), kProducers / 32);
        ptx::mbarrier_init(empty(i), kConsumers / 32 / kParts);
      }
      ptx::mbarrier_init(listed(), kProducers / 32);
      ptx::mbarrier_init(taken(), kConsumers / 32);
      ptx::fence_mbarrier_init();
    }
    if (kHeads < 64) make_list<kSm90MlaThreads>(static_cast<int>(threadIdx.x));
    __syncthreads();
  }
  /// So many threads, who meet at named barrier 6: the list of this block's entries. A thread has neighbouring indices.
  template <int kThreads>
  __device__ __forceinline__ void make_list(int thread) {
    constexpr int kEach = kSm90MlaTopK / kThreads;
    constexpr int kWarps = kThreads / 32;
    const int lane = thread % 32;
    const int length = simt::mla_length(args, token);
    int slots[kEach];
    int valid = 0;
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      const int i = thread * kEach + j;
      const int slot = i < length ? args.indices[i64{token} * args.indices_row + i] : -1;
      slots[j] = slot < args.slots ? slot : -1;
      valid += slots[j] >= 0;
    }
    int at = valid;  // valid ones up to this thread's last
#pragma unroll
    for (int lanes = 1; lanes < 32; lanes *= 2) {
      const int before = __shfl_up_sync(~0u, at, lanes);
      at += lane >= lanes ? before : 0;
    }
    int* sums = list_sums();
    if (lane == 31) sums[thread / 32] = at;
    ptx::bar_sync(6, kThreads);
    int all = 0;
    at -= valid;
    for (int w = 0; w < kWarps; ++w) {
      at += w < thread / 32 ? sums[w] : 0;
      all += sums[w];
    }
    const int first = rank() * kernel.part;
    count = all - first < 0 ? 0 : all - first < kernel.part ? all - first : kernel.part;
    if (thread == 0) *used() = all <= kernel.part ? 1 : (all + kernel.part - 1) / kernel.part;
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      if (slots[j] < 0) continue;
      if (at >= first && at - first < count) list()[at - first] = slots[j];
      ++at;
    }
    ptx::bar_sync(6, kThreads);
  }

  /// The consumers: the queries as bf16; heads that do not exist are zeros. A thread has 16 of every 128 bytes of a row.
  template <int kThreads>
  __device__ __forceinline__ void fetch_queries(int thread) const {
    const int part = thread % 8;
    for (int row = thread / 8; row < kHeads; row += kThreads / 8) {
      const bool there = head0 + row < args.heads;
      const i64 from = i64{token} * args.q.row + (there ? head0 + row : 0) * args.q.head + 8 * part;
      const int to = place(row, part, kQueryBlockBytes);
      if (args.q.bf16 && kernel.aligned_q) {
#pragma unroll
        for (int b = 0; b < kSm90MlaBlocks; ++b) {
          const u16* data = static_cast<const u16*>(args.q.data) + from + 64 * b;
          ptx::cp_async_16(queries + to + b * kQueryBlockBytes, data, there);
        }
        continue;
      }
#pragma unroll 1
      for (int b = 0; b < kSm90MlaBlocks; ++b) {
        float x[8];
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          x[j] = there ? simt::load_element(args.q.data, args.q.bf16, from + 64 * b + j) : 0.0f;
        }
        *reinterpret_cast<uint4*>(start + to + b * kQueryBlockBytes) = {
            ptx::cvt_bf16x2(x[0], x[1]), ptx::cvt_bf16x2(x[2], x[3]), ptx::cvt_bf16x2(x[4], x[5]),
            ptx::cvt_bf16x2(x[6], x[7])};
      }
    }
  }
  __device__ __forceinline__ void await_queries() const {
    ptx::cp_async_wait_all();
    ptx::fence_proxy_async();
    ptx::bar_sync(5, kConsumers);
  }
  __device__ __forceinline__ void load_queries() const {
    fetch_queries<kConsumers>(static_cast<int>(threadIdx.x));
    await_queries();
  }

  /// Eight e4m3 values times a scale, as bf16.
  static __device__ __forceinline__ uint4 dequantise(u32 first, u32 second, float scale) {
    const auto two = [scale](u32 codes) {
      const float2 values = ptx::cvt_f32x2(ptx::cvt_f16x2(static_cast<u16>(codes)));
      return ptx::cvt_bf16x2(values.x * scale, values.y * scale);
    };
    return {two(first), two(first >> 16), two(second), two(second >> 16)};
  }

  /// Entry `row` of a tile; beyond the end any.
  __device__ __forceinline__ const u8* entry_at(int tile, int row) const {
    const int at = tile * kSm90MlaEntries + row;
    return static_cast<const u8*>(args.cache) + list()[at < count ? at : 0] * args.cache_row;
  }
  /// A thread has 16 of every 128 bytes of two entries, its eight neighbours the others; a warp stores to rows whose
  /// swizzles differ.
  __device__ __forceinline__ void gather(int tile, int buffer) const {
    constexpr int kRows = kSm90MlaEntries / (kProducers / 8);
    constexpr int kAtOnce = kHeads <= 16 ? 2 : 1;  // rows in registers: where the sums leave room
    const int thread = static_cast<int>(threadIdx.x) % kProducers;
    const int part = thread % 8;
    const int first = thread / 8;  // and 32 rows further
    const int left = count - tile * kSm90MlaEntries;
    const u32 to = entries() + buffer * kSm90MlaTile;
    if (args.element == 2) {
#pragma unroll 1
      for (int r = 0; r < kRows; ++r) {
        const int row = first + r * (kProducers / 8);
        const u8* entry = entry_at(tile, row) + 16 * part;
#pragma unroll 3
        for (int b = 0; b < kSm90MlaBlocks; ++b) {
          ptx::cp_async_16(to + place(row, 8 * b + part, kBlockBytes), entry + 128 * b, row < left);
        }
      }
      ptx::cp_async_wait_all();
      return;
    }
#pragma unroll 1
    for (int begin = 0; begin < kRows; begin += kAtOnce) {
      uint4 codes[kAtOnce][4];
      float4 scales[kAtOnce];
#pragma unroll
      for (int r = 0; r < kAtOnce; ++r) {
        const int row = first + (begin + r) * (kProducers / 8);
        const u8* entry = entry_at(tile, row);
#pragma unroll
        for (int group = 0; group < 4; ++group) {
          codes[r][group] = {0, 0, 0, 0};
          if (row < left) codes[r][group] = __ldg(reinterpret_cast<const uint4*>(entry + group * 128) + part);
        }
        scales[r] = {0, 0, 0, 0};
        if (row < left) scales[r] = __ldg(reinterpret_cast<const float4*>(entry + 512));
        ptx::cp_async_16(to + place(row, 64 + part, kBlockBytes), entry + 528 + 16 * part, row < left);
        // The next tile's come from memory into the L2 cache meanwhile: 656 bytes, that are in six lines of 128.
        if (part < 6 && row + kSm90MlaEntries < left) ptx::prefetch_l2(entry_at(tile + 1, row) + 128 * part);
      }
#pragma unroll
      for (int r = 0; r < kAtOnce; ++r) {
        const int row = first + (begin + r) * (kProducers / 8);
        const float each[4] = {scales[r].x, scales[r].y, scales[r].z, scales[r].w};
#pragma unroll
        for (int group = 0; group < 4; ++group) {
          const uint4& c = codes[r][group];
          u8* at = tiles_at() + buffer * kSm90MlaTile;
          const int chunk = group * 16 + 2 * part;
          *reinterpret_cast<uint4*>(at + place(row, chunk, kBlockBytes)) = dequantise(c.x, c.y, each[group]);
          *reinterpret_cast<uint4*>(at + place(row, chunk + 1, kBlockBytes)) = dequantise(c.z, c.w, each[group]);
        }
      }
    }
    ptx::cp_async_wait_all();
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

  /// Where a consumer puts part p of this block: [kHeads][kSm90MlaRow], over the tiles it has read.
  __device__ __forceinline__ float* partial(int p) const {
    return reinterpret_cast<float*>(tiles_at() + p * kSm90MlaTile);
  }
  __device__ __forceinline__ void set_statistics(int p, int head, float highest, float total) const {
    statistics()[2 * p * kHeads + head] = highest;
    statistics()[(2 * p + 1) * kHeads + head] = total;
  }

  /// All threads of the cluster, twice: when partial results and statistics are there, and when they have been read.
  __device__ __forceinline__ void meet() const {
    if (kernel.blocks == 1) {
      __syncthreads();
    } else {
      ptx::cluster_arrive();
      ptx::cluster_wait();
    }
  }
  /// The consumers: the parts, in order, give the output. The blocks share out its items, four columns of a head each.
  __device__ __forceinline__ void join() const {
    const int thread = static_cast<int>(threadIdx.x);
    const bool alone = kernel.blocks == 1;
    const int parts = *used() * kParts;
    float* highest = reinterpret_cast<float*>(list());  // [parts][kHeads], then what a part's sums are multiplied by
    float* total = highest + kSm90MlaTopK / 4;        // [parts][kHeads]
    float* share = total + kSm90MlaTopK / 4;          // [kHeads]
    for (int i = thread; i < parts * kHeads; i += kConsumers) {
      const int p = i / kHeads;
      const u32 own = ptx::shared_address(statistics() + 2 * (p % kParts) * kHeads + i % kHeads);
      const u32 at = ptx::mapa(own, p / kParts);
      highest[i] = ptx::ld_shared_cluster_1(at);
      total[i] = ptx::ld_shared_cluster_1(at + 4 * kHeads);
    }
    ptx::bar_sync(5, kConsumers);
    if (thread < kHeads) {
      const float lowest = __uint_as_float(0xff800000u);
      float most = lowest;
#pragma unroll 1
      for (int p = 0; p < parts; ++p) most = fmaxf(most, highest[p * kHeads + thread]);
      const float base = most == lowest ? 0.0f : most;
      float all = 0;
#pragma unroll 1
      for (int p = 0; p < parts; ++p) {
        const float factor = ptx::exp2(highest[p * kHeads + thread] - base);  // 0 of a part without entries
        highest[p * kHeads + thread] = factor;
        all = __fmaf_rn(total[p * kHeads + thread], factor, all);
      }
      const int head = head0 + thread;
      if (head < args.heads) {
        if (args.lse != nullptr && rank() == 0) {
          args.lse[i64{token} * args.lse_row + head] = 0.693147181f * (most + log2f(all));
        }
        if (args.sink != nullptr && all != 0) all += exp2f(args.sink[head] * kLog2E - base);
      }
      share[thread] = all == 0 ? 0.0f : 1.0f / all;  // no entry: zeros
    }
    ptx::bar_sync(5, kConsumers);
    // Loops are rolled here: this code is run once, from a cold cache of instructions.
#pragma unroll 1
    for (int i = rank() * kConsumers + thread; i < kHeads * 128; i += kernel.blocks * kConsumers) {
      const int row = i / 128;
      const int column = i % 128 * 4;
      if (head0 + row >= args.heads) break;
      float4 sum = {0, 0, 0, 0};
#pragma unroll 1
      for (int p = 0; p < parts; ++p) {
        const u32 own = ptx::shared_address(partial(p % kParts) + row * kSm90MlaRow + column);
        const float4 v = alone ? ptx::ld_shared_4(own) : ptx::ld_shared_cluster(ptx::mapa(own, p / kParts));
        const float factor = highest[p * kHeads + row];
        sum = {__fmaf_rn(v.x, factor, sum.x), __fmaf_rn(v.y, factor, sum.y), __fmaf_rn(v.z, factor, sum.z),
               __fmaf_rn(v.w, factor, sum.w)};
      }
      const float s = share[row];
      store(i64{token} * args.out.row + (head0 + row) * args.out.head + column,
            {sum.x * s, sum.y * s, sum.z * s, sum.w * s});
    }
  }
  __device__ __forceinline__ void store(i64 to, float4 v) const {
    if (kernel.aligned_out && args.out.bf16) {
      *reinterpret_cast<uint2*>(static_cast<u16*>(args.out.data) + to) = {ptx::cvt_bf16x2(v.x, v.y),
                                                                          ptx::cvt_bf16x2(v.z, v.w)};
    } else if (kernel.aligned_out) {
      *reinterpret_cast<float4*>(static_cast<float*>(args.out.data) + to) = v;
    } else {
      const float values[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int j = 0; j < 4; ++j) simt::store_element(args.out.data, args.out.bf16, to + j, values[j]);
    }
  }
};

}  // namespace fathom
