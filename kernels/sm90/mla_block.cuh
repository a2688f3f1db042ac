// What the Hopper attention kernels share: a block's list of entries, its queries, the gathering of entries into shared
// memory as bf16, and the joining of partial results, of warpgroups and of the blocks of a cluster.
//
// The valid entries of a token are numbered in list order. Block r of the cluster has the entries from r * span on, at
// most `span`, and takes them 64 at a time: a tile. Two of its four warpgroups gather tiles into two buffers while the
// others multiply, who meet at named barrier 5 (of codes, four more warps copy tiles and all others multiply); who makes
// the list meets at 6. All sums are fixed by the list of valid
// entries and by the length of a part, the class of the call: parts are added to those before them one by one, by the
// blocks of a cluster in the end or by a block that takes all parts itself.
#pragma once
#include "layout/sm90_sparse_mla.cuh"
#include "ptx/barrier.cuh"
#include "ptx/convert.cuh"
#include "ptx/memory.cuh"
#include "ptx/tma.cuh"
#include "ptx/wgmma.cuh"
#include "simt/sparse_mla.cuh"

namespace fathom {

template <int kHeads, bool kCodes = false>
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
    take(static_cast<int>(blockIdx.x / static_cast<u32>(kernel.blocks)));
  }
  __device__ static int rank() { return static_cast<int>(ptx::cluster_rank()); }
  static constexpr int kTilesAt = sm90_mla_tiles_at(kHeads, kCodes);
  static constexpr int kListAt = sm90_mla_list_at(kHeads, kCodes);
  static constexpr int kExchangeAt = kListAt + 4 * kSm90MlaTopK;
  static constexpr int kStatisticsAt = kExchangeAt + 4 * kSm90MlaExchange;
  static constexpr int kBarriersAt = kStatisticsAt + 4 * kSm90MlaStatistics;
  __device__ u32 entries() const { return queries + kTilesAt; }
  __device__ u8* tiles_at() const { return start + kTilesAt; }
  __device__ int* list() const { return reinterpret_cast<int*>(start + kListAt); }
  __device__ float* exchange() const { return reinterpret_cast<float*>(start + kExchangeAt); }
  /// [kParts][maximum, total][kHeads]
  __device__ float* statistics() const { return reinterpret_cast<float*>(start + kStatisticsAt); }
  /// Sums of warps while the list is made.
  __device__ u32* list_sums() const { return reinterpret_cast<u32*>(start + kBarriersAt + 64); }
  __device__ int* counts() const { return reinterpret_cast<int*>(start + kBarriersAt + 36); }
  /// Of the cluster's blocks that have entries.
  __device__ int* results() const { return counts() + 2; }
  __device__ int* shelf_number() const { return counts() - 1; }
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
    if constexpr (kHeads < 64) {
      make_list<kSm90MlaThreads>(static_cast<int>(threadIdx.x));
    } else {
      __syncthreads();
    }
  }
  /// What valid indices are below, as unsigned numbers.
  __device__ u32 slots() const { return args.slots < 0x80000000ll ? static_cast<u32>(args.slots) : 0x80000000u; }
  /// So many threads, who meet at named barrier 6: the list of this block's entries. A thread has neighbouring indices.
  template <int kThreads>
  __device__ __forceinline__ void make_list(int thread) {
    constexpr int kEach = kSm90MlaTopK / kThreads;
    constexpr int kWarps = kThreads / 32;
    const int lane = thread % 32;
    const int warp = thread / 32;
    const int left = simt::mla_length(args, token) - thread * kEach;
    const int* indices = args.indices + i64{token} * args.indices_row + thread * kEach;
    u32 slot[kEach];
#pragma unroll
    for (int j = 0; j < kEach; ++j) slot[j] = j < left ? static_cast<u32>(indices[j]) : ~0u;
    u32 valid = 0;
#pragma unroll
    for (int j = 0; j < kEach; ++j) valid += slot[j] < slots();
    u32 at = valid;  // valid ones up to this thread's last
#pragma unroll
    for (int lanes = 1; lanes < 32; lanes *= 2) {
      const u32 before = __shfl_up_sync(~0u, at, lanes);
      at += lane >= lanes ? before : 0;
    }
    if (lane == 31) list_sums()[warp] = at;
    ptx::bar_sync(6, kThreads);
    u32 all = list_sums()[lane % kWarps];
    u32 before = lane % kWarps < warp ? all : 0;
#pragma unroll
    for (int lanes = 1; lanes < kWarps; lanes *= 2) {
      all += __shfl_xor_sync(~0u, all, lanes);
      before += __shfl_xor_sync(~0u, before, lanes);
    }
    const u32 first = static_cast<u32>(rank() * kernel.span);
    count = all <= first ? 0 : min(static_cast<int>(all - first), kernel.span);
    if (thread == 0) *results() = (static_cast<int>(all) + kernel.span - 1) / kernel.span * kParts;
    count = __shfl_sync(~0u, count, 0);  // tells the compiler that they have the same
    at += before - valid - first;        // from this block's first on; before it: beyond any count
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      if (slot[j] >= slots()) continue;
      if (at < static_cast<u32>(count)) list()[at] = static_cast<int>(slot[j]);
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
#pragma unroll 3
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
  /// Where a consumer puts part p of this block: [kHeads][kSm90MlaRow], over the tiles it has read.
  __device__ __forceinline__ float* partial(int p) const {
    return reinterpret_cast<float*>(tiles_at() + p * kSm90MlaTile);
  }
  __device__ __forceinline__ void set_statistics(int p, int head, float highest, float total) const {
    statistics()[2 * p * kHeads + head] = highest;
    statistics()[(2 * p + 1) * kHeads + head] = total;
  }

  /// What the sums of the parts before and those of the next are multiplied by, to be added up.
  struct Factors {
    float before, next;
  };
  static __device__ __forceinline__ Factors factors_of(float highest_before, float highest_next) {
    const float highest = fmaxf(highest_before, highest_next);
    const float base = highest == __uint_as_float(0xff800000u) ? 0.0f : highest;
    return {ptx::exp2(highest_before - base), ptx::exp2(highest_next - base)};
  }
  static __device__ __forceinline__ float add(float before, float next, const Factors& factors) {
    return __fmaf_rn(next, factors.next, __fmul_rn(before, factors.before));
  }

  /// What a part brings to the sum of those up to it.
  struct alignas(16) Part {
    Factors factors;
    float total;
    float highest;  // of the parts up to it
  };
  /// The first kSm90MlaThreads of every block of the cluster: the parts, in order, give the output. The blocks share out its items, four columns of
  /// a head each. Short code: it runs once, from a cold cache of instructions.
  __device__ __forceinline__ void join() const {
    constexpr int kMost = 8 * kParts;  // parts of a head, for each of which there is a lane
    static_assert(kHeads * kMost <= kSm90MlaThreads && 32 % kMost == 0);
    static_assert(kHeads * kMost * sizeof(Part) <= 4 * kSm90MlaTopK);
    const float lowest = __uint_as_float(0xff800000u);
    const bool alone = kernel.blocks == 1;
    const int thread = static_cast<int>(threadIdx.x);
    if (alone) {
      ptx::bar_sync(0, kSm90MlaThreads);
    } else {
      ptx::cluster_arrive();
      ptx::cluster_wait();
    }
    const int parts = *results();
    Part* all = reinterpret_cast<Part*>(list());  // [kHeads][kMost]
    if (thread < kHeads * kMost) {
      const int row = thread / kMost;
      const int p = thread % kMost;
      float own = lowest;
      float total = 0;
      if (p < parts) {
        const u32 at = ptx::mapa(ptx::shared_address(statistics() + 2 * (p % kParts) * kHeads + row), p / kParts);
        own = ptx::ld_shared_cluster_1(at);
        total = ptx::ld_shared_cluster_1(at + 4 * kHeads);
      }
      float most = own;
#pragma unroll
      for (int lanes = 1; lanes < kMost; lanes *= 2) most = fmaxf(most, __shfl_up_sync(~0u, most, lanes, kMost));
      const float before = __shfl_up_sync(~0u, most, 1, kMost);
      all[thread] = {factors_of(p == 0 ? lowest : before, own), total, most};
    }
    ptx::bar_sync(0, kSm90MlaThreads);
    const int items = min(kHeads, args.heads - head0) * 128;
#pragma unroll 1
    for (int i = rank() * kSm90MlaThreads + thread; i < items; i += kernel.blocks * kSm90MlaThreads) {
      const int row = i / 128;
      const int column = i % 128 * 4;
      const u32 own = ptx::shared_address(partial(0) + row * kSm90MlaRow + column);
      float4 sum = {0, 0, 0, 0};
      float total = 0;
      float highest = lowest;
#pragma unroll 2
      for (int p = 0; p < parts; p += kParts) {
        const u32 at = alone ? own : ptx::mapa(own, p / kParts);
#pragma unroll
        for (int w = 0; w < kParts; ++w) {
          const u32 from = at + w * kSm90MlaTile;
          const float4 v = alone ? ptx::ld_shared_4(from) : ptx::ld_shared_cluster(from);
          const Part part = all[row * kMost + p + w];
          const Factors& f = part.factors;  // of the first: 0 and 1
          sum = {add(sum.x, v.x, f), add(sum.y, v.y, f), add(sum.z, v.z, f), add(sum.w, v.w, f)};
          total = add(total, part.total, f);
          highest = part.highest;
        }
      }
      const float share = share_of(row, total, highest, column == 0);
      store(i64{token} * args.out.row + (head0 + row) * args.out.head + column,
            {sum.x * share, sum.y * share, sum.z * share, sum.w * share});
    }
    if (!alone) {  // what others read stays until they have
      ptx::cluster_arrive_relaxed();
      ptx::cluster_wait();
    }
  }
  /// What sums of head `row` are multiplied by in the end, when its log-sum-exp is known, which one of its threads writes.
  __device__ __forceinline__ float share_of(int row, float total, float highest, bool writes) const {
    const int head = head0 + row;
    if (args.lse != nullptr && writes) {
      args.lse[i64{token} * args.lse_row + head] = 0.693147181f * (highest + log2f(total));
    }
    if (args.sink != nullptr && total != 0) total += exp2f(args.sink[head] * kLog2E - highest);
    return total == 0 ? 0.0f : 1.0f / total;  // no entry: zeros
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
