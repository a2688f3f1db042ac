// The indexer's scores on Hopper's tensor cores: logits[row, j] = scale[j] * sum_h weight[row, h] * max(0, q[row, h] . k[j])
// for FP8 queries and keys of up to 128 elements.
//
// Keys are the 64-row operand of the matrix instruction, the heads of one or two query tokens its columns: a warpgroup
// multiplies a tile of 64 keys with every token of its request, so a key is fetched once whatever their number, and
// the sum over heads stays in registers but for two exchanges. All tiles of all requests are dealt to the blocks in
// equal runs, from the lengths themselves: there is no schedule that could be stale. A score is computed in one way
// only, whatever the call, the run and the tokens that share an instruction.
#pragma once
#include "layout/sm90_mqa.cuh"
#include "ptx/barrier.cuh"
#include "ptx/memory.cuh"
#include "ptx/tma.cuh"
#include "ptx/wgmma.cuh"
#include "simt/scan.cuh"

namespace fathom {

/// kHeads: the heads, rounded up to columns of a matrix instruction. kPage: keys of a page; 64 in a ragged call.
template <int kHeads, bool kRagged, int kDim, int kPage>
struct Sm90Mqa {
  static constexpr int kPartKeys = kPage < kMqaKeys ? kPage : kMqaKeys;  // of a tile that lie on one page
  static constexpr int kParts = kMqaKeys / kPartKeys;
  static constexpr int kSteps = kDim / 32;  // along a key

  struct alignas(16) Tile {
    int request;
    int tile;     // of the sequence
    int segment;  // of this block's run: the number of its request
    int there;    // a bit for each part: 0 for a page that is none of the cache's
  };

  const Sm90MqaKernel& args;
  u32 ring, ring_low, queries, queries_low;  // shared addresses and descriptors
  float* scales;   // [stages][64]
  Tile* tiles;     // [stages]
  float* weights;  // [q_stages][next_n * heads]
  int* before;     // tiles of all requests before each, [requests + 1]
  u32 barriers;    // full[stages], empty[stages], q_full[q_stages]
  int rows;        // next_n * heads
  int begin, end;  // this block's tiles

  __device__ Sm90Mqa(const Sm90MqaKernel& arguments, u8* shared) : args(arguments) {
    rows = args.next_n * kHeads;
    const u32 base = ptx::shared_address(shared);
    ring = (base + 1023) & ~1023u;
    u8* start = shared + (ring - base);
    u8* at = start + args.stages * kSm90MqaTile;
    queries = ptx::shared_address(at);
    at += args.q_stages * sm90_mqa_q_bytes(rows);
    scales = reinterpret_cast<float*>(at);
    at += args.stages * kMqaKeys * 4;
    weights = reinterpret_cast<float*>(at);
    at += args.q_stages * rows * 4;
    tiles = reinterpret_cast<Tile*>(at);
    at += args.stages * 16;
    barriers = ptx::shared_address(at);
    at += 16 * (args.stages + args.q_stages);
    before = reinterpret_cast<int*>(at);
    ring_low = ptx::wgmma_descriptor_low(ring);
    queries_low = ptx::wgmma_descriptor_low(queries);
  }

  __device__ u32 full(int stage) const { return barriers + 8 * stage; }
  __device__ u32 empty(int stage) const { return barriers + 8 * (args.stages + stage); }
  __device__ u32 q_full(int stage) const { return barriers + 8 * (2 * args.stages + stage); }

  __device__ const MqaQueries& query_args() const { return kRagged ? args.ragged.q : args.paged.q; }
  __device__ long long columns() const { return kRagged ? args.ragged.keys : args.paged.max_len; }
  __device__ float* logits(long long row) const {
    return kRagged ? args.ragged.logits + row * args.ragged.logits_row : args.paged.logits + row * args.paged.logits_row;
  }
  /// The keys that a row sees, [first, last) within the columns.
  struct Window {
    int first, last;
  };
  __device__ Window window(int request, int token) const {
    int first = 0;
    int last = 0;
    if constexpr (kRagged) {
      const long long row = static_cast<long long>(request) * args.next_n + token;
      if (row >= args.ragged.q.rows) return {0, 0};
      first = max(static_cast<const int*>(args.ragged.first.data)[row * args.ragged.first.step], 0);
      last = static_cast<const int*>(args.ragged.last.data)[row * args.ragged.last.step];
    } else {
      const PagedMqaLogitsKernel& paged = args.paged;
      last = paged.context_lens[request * paged.lens_row + token * paged.lens_step];
    }
    last = static_cast<int>(min(static_cast<long long>(last), columns()));
    return first < last ? Window{first, last} : Window{0, 0};
  }
  /// The tiles of a request of a ragged call, [first, last).
  __device__ Window tiles_of(int request) const {
    int first = 0x7fffffff;
    int last = 0;
#pragma unroll 1
    for (int i = 0; i < args.next_n; ++i) {
      const Window seen = window(request, i);
      if (seen.first == seen.last) continue;
      first = min(first, seen.first / kMqaKeys);
      last = max(last, (seen.last + kMqaKeys - 1) / kMqaKeys);
    }
    return first < last ? Window{first, last} : Window{0, 0};
  }
  /// How many tiles a request has; `length` is the first of a paged call's.
  __device__ int count_tiles(int request, int length) const {
    if constexpr (kRagged) {
      const Window range = tiles_of(request);
      return range.last - range.first;
    }
    const PagedMqaLogitsKernel& paged = args.paged;
#pragma unroll 1
    for (int i = 1; i < args.next_n; ++i)
      length = max(length, paged.context_lens[request * paged.lens_row + i * paged.lens_step]);
    const int most = static_cast<int>(min(paged.max_len, paged.block_table.pages * kPage));
    return (max(min(length, most), 0) + kMqaKeys - 1) / kMqaKeys;
  }

  /// What is done while the lengths are on their way: barriers are initialised, by all warps because it is slow, and
  /// the block tables come to L2, whatever part of them the lengths will ask for.
  __device__ void set_up() const {
    // From the last, which seldom has lengths to read.
    const int warp = kSm90MqaThreads / 32 - 1 - static_cast<int>(threadIdx.x / 32);
    if constexpr (!kRagged) {
      const BlockTable& table = args.paged.block_table;
      const unsigned lines = static_cast<unsigned>((table.pages + 31) / 32);
      const unsigned line = (threadIdx.x % 64) * gridDim.x + blockIdx.x;
      if (warp < 2 && table.step == 1 && line < lines * static_cast<unsigned>(args.requests))
        ptx::prefetch_l2(table.data + line / lines * table.row + line % lines * 32);
    }
    if (threadIdx.x % 32 != 0) return;
    if (warp == 2) {
      ptx::prefetch_tensormap(&args.keys);
      ptx::prefetch_tensormap(&args.q);
    }
#pragma unroll 1
    for (int i = warp; i < args.stages; i += kSm90MqaThreads / 32) {
      ptx::mbarrier_init(full(i), 1);
      ptx::mbarrier_init(empty(i), 4);
      if (i < args.q_stages) ptx::mbarrier_init(q_full(i), 1);
    }
    ptx::fence_mbarrier_init();
  }

  /// All threads: counts the tiles and takes this block's share of them. The code is short because all of it is a
  /// miss of the instruction cache when a launch begins.
  __device__ void share_out() {
    __shared__ int sums[kSm90MqaStaticBytes / 4];
    const int thread = static_cast<int>(threadIdx.x);
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int warp = static_cast<int>(threadIdx.x / 32);
    int total = 0;
#pragma unroll 1
    for (int request = thread; request - thread <= args.requests; request += kSm90MqaThreads) {
      const bool live = request < args.requests;
      int length = 0;
      if (!kRagged && live) length = args.paged.context_lens[request * args.paged.lens_row];
      if (request == thread) set_up();
      const int count = live ? count_tiles(request, length) : 0;
      const int through = simt::warp_inclusive_sum(count, lane);
      if (lane == 31) sums[warp] = through;
      __syncthreads();
      const int sum = lane < kSm90MqaThreads / 32 ? sums[lane] : 0;
      const int below = __reduce_add_sync(~0u, lane < warp ? sum : 0);
      if (request <= args.requests) before[request] = total + below + through - count;
      total += __reduce_add_sync(~0u, sum);
      __syncthreads();
    }
    // The first of the blocks have one tile more. Lane 0 speaks for all, so that the compiler uses uniform registers.
    const unsigned all = __shfl_sync(~0u, static_cast<unsigned>(total), 0);
    const unsigned each = all / gridDim.x;
    const unsigned more = all % gridDim.x;
    begin = static_cast<int>(each * blockIdx.x + min(blockIdx.x, more));
    end = static_cast<int>(begin + each + (blockIdx.x < more));
  }

  /// A warp.
  __device__ void load_queries(int request, int segment) const {
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int stage = segment & (args.q_stages - 1);
    const MqaQueries& q = query_args();
    const bool whole = q.heads == kHeads;  // or there are heads of zeros, whose weights are not to be read
    const int tokens = kRagged ? static_cast<int>(min(static_cast<long long>(args.next_n), q.rows - static_cast<long long>(request) * args.next_n))
                               : args.next_n;
    if (!whole) {
#pragma unroll 1
      for (int i = lane; i < tokens * kHeads; i += 32) {
        const int head = i % kHeads;
        const long long row = static_cast<long long>(request) * args.next_n + i / kHeads;
        weights[stage * rows + i] = head < q.heads ? q.weights[row * q.weights_row + head] : 0.0f;
      }
      __syncwarp();
    }
    if (lane != 0) return;
    ptx::mbarrier_arrive_expect_tx(q_full(stage), static_cast<u32>(tokens * kHeads * (128 + (whole ? 4 : 0))));
#pragma unroll 1
    for (int i = 0; i < tokens; ++i) {
      const u32 to = queries + stage * sm90_mqa_q_bytes(rows) + i * kHeads * 128;
      const int row = request * args.next_n + i;
      if constexpr (kRagged) {
        ptx::cp_async_bulk_tensor_3d(to, &args.q, q_full(stage), 0, 0, row, ptx::kEvictNormal);
      } else {
        ptx::cp_async_bulk_tensor_4d(to, &args.q, q_full(stage), 0, 0, i, request, ptx::kEvictNormal);
      }
      if (whole) {
        ptx::cp_async_bulk(ptx::shared_address(weights + stage * rows + i * kHeads), q.weights + row * q.weights_row,
                           kHeads * 4, q_full(stage));
      }
    }
  }
  __device__ void load_keys(int stage, const Tile& tile, const int (&pages)[kParts]) const {
    tiles[stage] = tile;
    if (!tile.there) {
      ptx::mbarrier_arrive(full(stage));
      return;
    }
    const u32 to = ring + stage * kSm90MqaTile;
    if constexpr (kRagged) {
      ptx::mbarrier_arrive_expect_tx(full(stage), kSm90MqaTile);
      ptx::cp_async_bulk_tensor_2d(to, &args.keys, full(stage), 0, tile.tile * kMqaKeys, ptx::kEvictNormal);
    } else {
      ptx::mbarrier_arrive_expect_tx(full(stage), static_cast<u32>(__popc(tile.there) * kPartKeys * (128 + 4)));
      const int entry = kPage > kMqaKeys ? tile.tile * kMqaKeys % kPage : 0;
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        if (!(tile.there >> part & 1)) continue;
        ptx::cp_async_bulk_tensor_3d(to + part * kPartKeys * 128, &args.keys, full(stage), 0, entry, pages[part],
                                     ptx::kEvictFirst);
        const u8* page = static_cast<const u8*>(args.paged.cache.data) + pages[part] * args.paged.cache.page;
        ptx::cp_async_bulk(ptx::shared_address(scales + stage * kMqaKeys + part * kPartKeys),
                           page + kPage * kDim + 4 * entry, 4 * kPartKeys, full(stage));
      }
    }
  }

  /// One warp: this block's tiles, a lane for each of the next 32. Lanes find their pages, wait for room and describe
  /// their tiles side by side, so a tile costs the warp little more than the instructions that copy it.
  __device__ void produce() const {
    constexpr int kTogether = 4;  // tiles whose places are waited for together
    const int lane = static_cast<int>(threadIdx.x % 32);
    int request = 0;  // of tile `begin`: the last that begins there or before
#pragma unroll 1
    for (int step = 1024; step > 0 && begin < end; step /= 32) {
      if (step >= args.requests && step > 1) continue;
      const int other = request + lane * step;
      request += step * (__popc(__ballot_sync(~0u, other < args.requests && before[other] <= begin)) - 1);
    }
    const int shift = __ffs(args.stages) - 1;
    int segments = 0;
    int opened = 0;  // the first tile of the last segment
#pragma unroll 1
    for (int base = begin; base < end; base += 32) {
      const int count = min(32, end - base);
      const int at = min(base + lane, end - 1);
#pragma unroll 1
      while (before[request + 1] <= at) ++request;
      const int start = before[request];
      const unsigned starts = __ballot_sync(~0u, lane < count && at == max(start, begin));
      const int segment = segments + __popc(starts & ~0u >> (31 - lane)) - 1;
      const int first = kRagged ? tiles_of(request).first : 0;
      const int tile = first + at - start;
      int pages[kParts];
      int there = kRagged;
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        pages[part] = -1;
        if constexpr (kRagged) continue;
        const BlockTable& table = args.paged.block_table;
        const long long index = (static_cast<long long>(tile) * kMqaKeys + part * kPartKeys) / kPage;
        if (index < table.pages) pages[part] = table.data[request * table.row + index * table.step];
      }
      const int stage = (at - begin) & (args.stages - 1);
      const int round = (at - begin) >> shift;
#pragma unroll 1
      for (int from = 0, to; from < count; from = to) {
        if (starts >> from & 1) {
          // Queries take the place of those that all tiles before `done` have met.
          const int now = base + from - begin;
          const int done = args.q_stages == 1 ? now : opened;
          const int last = done - 1 - lane;
          if (lane < kSm90MqaGroups && last >= 0 && last + args.stages >= now)
            ptx::mbarrier_wait(empty(last & (args.stages - 1)), last >> shift & 1);
          __syncwarp();
          load_queries(__shfl_sync(~0u, request, from), __shfl_sync(~0u, segment, from));
          opened = now;
        }
        const unsigned later = starts & ~1u << from;
        to = min(min(from + kTogether, count), later == 0 ? 32 : __ffs(static_cast<int>(later)) - 1);
        if (lane >= from && lane < to) {
          if constexpr (!kRagged) {
#pragma unroll
            for (int part = 0; part < kParts; ++part)
              there |= (pages[part] >= 0 && pages[part] < args.paged.cache.pages) << part;
          }
          if (round > 0) ptx::mbarrier_wait(empty(stage), (round - 1) & 1);
          load_keys(stage, {request, tile, segment, there}, pages);
        }
        __syncwarp();
      }
      segments += __popc(starts);
      request = __shfl_sync(~0u, request, 31);
    }
  }

  /// Three warps fill what no tile covers.
  __device__ void fill() const {
    constexpr int kColumns = 1024;
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int warp = static_cast<int>(threadIdx.x / 32 % 4) - 1;
    const unsigned chunks = static_cast<unsigned>((columns() + kColumns - 1) / kColumns);
    const unsigned units = static_cast<unsigned>(query_args().rows) * chunks;
#pragma unroll 1
    for (unsigned unit = blockIdx.x * 3 + warp; unit < units; unit += gridDim.x * 3) {
      const unsigned row = unit / chunks;
      const int from = static_cast<int>(unit % chunks) * kColumns;
      const int to = static_cast<int>(min(static_cast<long long>(from) + kColumns, columns()));
      const int request = static_cast<int>(row / static_cast<unsigned>(args.next_n));
      Window covered{0, (before[request + 1] - before[request]) * kMqaKeys};
      if (kRagged && covered.last > 0) {
        covered.first = tiles_of(request).first * kMqaKeys;
        covered.last += covered.first;
      }
      float* out = logits(row);
#pragma unroll 1
      for (int j = from + lane; j < min(to, covered.first); j += 32) out[j] = __uint_as_float(0xff800000u);
#pragma unroll 1
      for (int j = max(from, covered.last) + lane; j < to; j += 32) out[j] = __uint_as_float(0xff800000u);
    }
  }

  /// Warpgroups take tiles in turn: while one adds up its last scores, the next has the tensor cores to itself. A turn
  /// is a whole tile, so a tile waits for earlier ones only: the loader may wait for it before it fetches a later one.
  __device__ void take_turn(int group) const { ptx::bar_sync(1 + group, 256); }
  __device__ void pass_turn(int group) const { ptx::bar_arrive(1 + (group + 1) % kSm90MqaGroups, 256); }

  /// kTokens tokens of a request, from `token` on, against the tile in `stage`.
  template <int kTokens>
  __device__ __forceinline__ void score(int group, const Tile& tile, int stage, int token, const float (&scale)[2],
                                        bool takes, bool passes) const {
    constexpr int kN = kTokens * kHeads;
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int q_stage = tile.segment % args.q_stages;
    // Lane i of four stores the scores of key row 8 * (i % 2) and token i / 2.
    const int which = lane % 4;
    const bool stores = which < 2 * kTokens;
    const int mine = token + (stores ? which / 2 : 0);
    const Window seen = window(tile.request, mine);
    float d[kN / 2];
    const u32 a = ring_low + stage * (kSm90MqaTile / 16);
    const u32 b = queries_low + (q_stage * sm90_mqa_q_bytes(rows) + token * kHeads * 128) / 16;
    if (takes) take_turn(group);
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
      ptx::Wgmma<true, kN>::multiply(d, ptx::wgmma_descriptor(a + 2 * k), ptx::wgmma_descriptor(b + 2 * k), k > 0);
      if (k == (kSteps - 1) / 2 || k == kSteps - 1) ptx::wgmma_commit_group();
    }
    ptx::wgmma_wait_group<1>();
    if (passes) pass_turn(group);  // half way, so that the next products are there when these are done
    ptx::wgmma_wait_group<0>();
#pragma unroll
    for (int i = 0; i < kN / 2; ++i) ptx::keep(d[i]);
    const float* weight = weights + q_stage * rows + token * kHeads + 2 * (lane % 4);
    float value = 0;
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      float sum[2] = {0, 0};  // twice the sum: d + |d| is 2 * max(0, d), and an addition is quicker than a maximum
#pragma unroll
      for (int j = 0; j < kHeads / 8; ++j) {
        const float2 w = *reinterpret_cast<const float2*>(weight + t * kHeads + 8 * j);
        const int at = 4 * (t * kHeads / 8 + j);
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          sum[h] = __fmaf_rn(w.x, d[at + 2 * h] + fabsf(d[at + 2 * h]), sum[h]);
          sum[h] = __fmaf_rn(w.y, d[at + 2 * h + 1] + fabsf(d[at + 2 * h + 1]), sum[h]);
        }
      }
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        sum[h] += __shfl_xor_sync(~0u, sum[h], 1);
        sum[h] += __shfl_xor_sync(~0u, sum[h], 2);
        if (which == 2 * t + h) value = 0.5f * sum[h] * scale[h];
      }
    }
    const int key = static_cast<int>(threadIdx.x / 32 % 4) * 16 + lane / 4 + 8 * (which % 2);
    const int j = tile.tile * kMqaKeys + key;
    const long long row = static_cast<long long>(tile.request) * args.next_n + mine;
    if (stores && j < columns() && row < query_args().rows) {
      logits(row)[j] = (tile.there >> key / kPartKeys & 1) && j >= seen.first && j < seen.last ? value : __uint_as_float(0xff800000u);
    }
  }

  /// A warpgroup: every third tile.
  __device__ void consume(int group) const {
    constexpr int kTogether = kHeads <= 64 ? 2 : 1;
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int key = static_cast<int>(threadIdx.x / 32 % 4) * 16 + lane / 4;
    if (group + 1 == kSm90MqaGroups && begin < end) pass_turn(group);  // the first is that of group 0
    int stage = group;
    int parity = 0;
    for (int first = begin; first < end; first += kSm90MqaGroups) {
      if (first + group >= end) {  // no tile: the turn is passed on
        take_turn(group);
        if (group + 1 < kSm90MqaGroups) pass_turn(group);  // nobody waits for the last
        break;
      }
      ptx::mbarrier_wait(full(stage), parity);
      const Tile tile = tiles[stage];
      ptx::mbarrier_wait(q_full(tile.segment % args.q_stages), tile.segment / args.q_stages & 1);
      float scale[2];
      for (int h = 0; h < 2; ++h) {
        if constexpr (kRagged) {
          const long long j = static_cast<long long>(tile.tile) * kMqaKeys + key + 8 * h;
          scale[h] = j < args.ragged.keys ? args.ragged.k_scale[j] : 0;
        } else {
          scale[h] = scales[stage * kMqaKeys + key + 8 * h];
        }
      }
      const bool passes = group + 1 < kSm90MqaGroups || first + kSm90MqaGroups < end;
      int token = 0;
      if constexpr (kTogether == 2) {
        for (; token + 2 <= args.next_n; token += 2) {
          score<2>(group, tile, stage, token, scale, token == 0, passes && token + 2 == args.next_n);
        }
      }
      for (; token < args.next_n; ++token) {
        score<1>(group, tile, stage, token, scale, token == 0, passes && token + 1 == args.next_n);
      }
      __syncwarp();
      if (lane == 0) ptx::mbarrier_arrive(empty(stage));
      stage += kSm90MqaGroups;
      if (stage >= args.stages) {
        stage -= args.stages;
        parity ^= 1;
      }
    }
  }

  __device__ void run() {
    share_out();
    const int group = __shfl_sync(~0u, static_cast<int>(threadIdx.x / 128), 0);
    if (group < kSm90MqaGroups) {
      consume(group);
    } else if (threadIdx.x / 32 % 4 == 0) {
      produce();
    } else {
      fill();
    }
  }
};

template <int kHeads, bool kRagged, int kDim, int kPage>
__device__ void sm90_mqa(const Sm90MqaKernel& args) {
  extern __shared__ u8 shared[];
  Sm90Mqa<kHeads, kRagged, kDim, kPage>(args, shared).run();
}

}  // namespace fathom
