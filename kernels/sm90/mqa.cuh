// The indexer's scores on Hopper's tensor cores: logits[row, j] = scale[j] * sum_h weight[row, h] * max(0, q[row, h] . k[j])
// for FP8 queries and keys of up to 128 elements.
//
// Keys are the 64-row operand of the matrix instruction, the heads of one or two query tokens its columns: a tile of 64
// keys meets every token of its request, so a key is fetched once whatever their number, and the sum over heads stays in
// registers but for two exchanges. All tiles of all requests are dealt to the blocks in
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
  // Tokens that share a matrix instruction. The loader of a tile of four pages leaves no registers for two.
  static constexpr int kTogether = kHeads <= 64 && kPage > 16 ? 2 : 1;

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
    rows = sm90_mqa_rows(args.next_n, kHeads);
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

  /// Sets of kTokens tokens that share a tile.
  template <int kTokens>
  __device__ int tile_mates() const {
    return args.next_n <= kTokens ? 1 : args.next_n <= 2 * kTokens ? 2 : kSm90MqaSets;
  }
  /// Sets that have the same tokens, if so many share a tile.
  static __device__ int turns_of(int mates) {
    return mates == 1 ? kSm90MqaSets : mates == 2 ? kSm90MqaSets / 2 : 1;
  }
  /// One token by itself needs half of the arithmetic.
  __device__ bool alone() const { return kTogether == 1 || (!kRagged && args.next_n == 1); }

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
    const int together = alone() ? 1 : kTogether;
    const int mates = alone() ? tile_mates<1>() : tile_mates<kTogether>();
    const int readers = 4 * min(mates, (args.next_n + together - 1) / together);
#pragma unroll 1
    for (int i = warp; i < args.stages; i += kSm90MqaThreads / 32) {
      ptx::mbarrier_init(full(i), 1);
      ptx::mbarrier_init(empty(i), readers);
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
        // Scales first: lanes copy together, and the first tile's would come after everybody's keys.
        const u8* page = static_cast<const u8*>(args.paged.cache.data) + pages[part] * args.paged.cache.page;
        ptx::cp_async_bulk(ptx::shared_address(scales + stage * kMqaKeys + part * kPartKeys),
                           page + kPage * kDim + 4 * entry, 4 * kPartKeys, full(stage));
        ptx::cp_async_bulk_tensor_3d(to + part * kPartKeys * 128, &args.keys, full(stage), 0, entry, pages[part],
                                     ptx::kEvictFirst);
      }
    }
  }

  /// One warp: this block's tiles, a lane for each of the next 32. Lanes find their pages, wait for room and describe
  /// their tiles side by side, so a tile costs the warp little more than the instructions that copy it.
  __device__ void produce() const {
    constexpr int kRun = 4;  // tiles whose places are waited for together
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
          if (lane < kSm90MqaSets && last >= 0 && last + args.stages >= now)
            ptx::mbarrier_wait(empty(last & (args.stages - 1)), last >> shift & 1);
          __syncwarp();
          load_queries(__shfl_sync(~0u, request, from), __shfl_sync(~0u, segment, from));
          opened = now;
        }
        const unsigned later = starts & ~1u << from;
        const int run = base + from - begin < args.stages ? 1 : kRun;  // at first there is room for all: no time is lost
        to = min(min(from + run, count), later == 0 ? 32 : __ffs(static_cast<int>(later)) - 1);
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

  /// The last warps fill what no tile covers.
  __device__ void fill() const {
    constexpr int kColumns = 1024;
    constexpr unsigned kWarps = kSm90MqaThreads / 32 - 4 * kSm90MqaGroups - 1;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const unsigned chunks = static_cast<unsigned>((columns() + kColumns - 1) / kColumns);
    const unsigned units = static_cast<unsigned>(args.requests) * chunks;
#pragma unroll 1
    for (unsigned unit = blockIdx.x * kWarps + kSm90MqaThreads / 32 - 1 - threadIdx.x / 32; unit < units;
         unit += gridDim.x * kWarps) {
      const int request = static_cast<int>(unit / chunks);
      const int from = static_cast<int>(unit % chunks) * kColumns;
      const int to = static_cast<int>(min(static_cast<long long>(from) + kColumns, columns()));
      Window covered{0, (before[request + 1] - before[request]) * kMqaKeys};
      if (kRagged && covered.last > 0) {
        covered.first = tiles_of(request).first * kMqaKeys;
        covered.last += covered.first;
      }
#pragma unroll 1
      for (int token = 0; token < args.next_n; ++token) {
        const long long row = static_cast<long long>(request) * args.next_n + token;
        if (row >= query_args().rows) break;
        float* out = logits(row);
#pragma unroll 1
        for (int j = from + lane; j < min(to, covered.first); j += 32) out[j] = __uint_as_float(0xff800000u);
#pragma unroll 1
        for (int j = max(from, covered.last) + lane; j < to; j += 32) out[j] = __uint_as_float(0xff800000u);
      }
    }
  }

  /// A warpgroup multiplies two sets of kTokens tokens with a tile each: while it adds up one set's products, the other's
  /// and those of other warpgroups are under way. A set stays with its tokens of a request, so that their weights stay in
  /// registers, where there are not more than sets for them; sets that have the same tokens take tiles by turns. Of a
  /// set's products a thread has those of every fourth pair of heads, and of four lanes, lane i stores the scores of
  /// token i / 2 with key i % 2.
  template <int kTokens>
  struct Set {
    float weights[kTokens][kHeads / 4];
    float* out;        // of this thread's key in the first tile, or null
    int first, count;  // of the keys that the row sees
    int segment;       // whose weights and keys these are
    int token, tiles;  // the first token, and tiles that are left
    int stage, parity;
    float scale;  // of this thread's key, in a ragged call
  };
  __device__ int key_of_tile() const {
    const int thread = static_cast<int>(threadIdx.x) % 128;
    return thread / 32 * 16 + thread % 32 / 4 + 8 * (thread % 2);
  }

  template <int kTokens>
  __device__ void take_tokens(Set<kTokens>& set) const {
    const int lane = static_cast<int>(threadIdx.x) % 4;
    const int q_stage = set.segment & (args.q_stages - 1);
    ptx::mbarrier_wait(q_full(q_stage), set.segment >> (args.q_stages - 1) & 1);
    const float* weight = weights + q_stage * rows + set.token * kHeads + 2 * lane;
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
#pragma unroll
      for (int j = 0; j < kHeads / 8; ++j) {
        const float2 w = *reinterpret_cast<const float2*>(weight + t * kHeads + 8 * j);
        set.weights[t][2 * j] = 0.5f * w.x;
        set.weights[t][2 * j + 1] = w.y;
      }
    }
    const int request = tiles[set.stage].request;
    const int token = set.token + lane / 2;
    const long long row = static_cast<long long>(request) * args.next_n + token;
    set.out = nullptr;
    if (lane / 2 >= kTokens || token >= args.next_n || row >= query_args().rows) return;
    const Window seen = window(request, token);
    set.out = logits(row) + key_of_tile();
    set.first = seen.first;
    set.count = seen.last - seen.first;
  }

  /// Begins to multiply with the next tile.
  template <int kTokens>
  __device__ __forceinline__ void multiply(Set<kTokens>& set, float (&d)[kTokens * kHeads / 2]) const {
    const int stage = set.stage;
    ptx::mbarrier_wait(full(stage), set.parity);
    // Lane 0 speaks for all, so that the compiler uses uniform registers.
    const int segment = __shfl_sync(~0u, tiles[stage].segment, 0);
    if (segment != set.segment || args.next_n > kSm90MqaSets * kTokens) {
      set.segment = segment;
      take_tokens(set);
    }
    const u32 a = ring_low + stage * (kSm90MqaTile / 16);
    const u32 b = queries_low + (segment & (args.q_stages - 1)) * (sm90_mqa_q_bytes(rows) / 16) + set.token * kHeads * 8;
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
      ptx::Wgmma<true, kTokens * kHeads>::multiply(d, ptx::wgmma_descriptor(a + 2 * k),
                                                   ptx::wgmma_descriptor(b + 2 * k), k > 0);
    }
    ptx::wgmma_commit_group();
    if constexpr (kRagged) {
      const int j = tiles[stage].tile * kMqaKeys + key_of_tile();
      set.scale = j < args.ragged.keys ? args.ragged.k_scale[j] : 0;
    }
  }
  /// Waits for these products, but not for those of kLater sets.
  template <int kLater, int kCount>
  __device__ __forceinline__ void wait(float (&d)[kCount]) const {
    ptx::wgmma_wait_group<kLater>();
#pragma unroll
    for (int i = 0; i < kCount; ++i) ptx::keep(d[i]);
  }
  /// The set's tokens have met the tile: others of it are next, or the tile goes back and the set's next one comes.
  template <int kTokens>
  __device__ __forceinline__ void advance(Set<kTokens>& set) const {
    constexpr int kStep = kSm90MqaSets * kTokens;  // a power of two
    const int base = set.token & ~(kStep - 1);
    if (base + kStep < args.next_n) {
      set.token += kStep;
      return;
    }
    set.token -= base;
    __syncwarp();
    if (threadIdx.x % 32 == 0) ptx::mbarrier_arrive(empty(set.stage));
    const int turns = turns_of(tile_mates<kTokens>());
    set.tiles -= turns;
    set.stage += turns;
    if (set.stage >= args.stages) {
      set.stage -= args.stages;
      set.parity ^= 1;
    }
  }
  /// Gives the tile back, adds up and stores.
  template <int kTokens>
  __device__ __forceinline__ void add_up(Set<kTokens>& set, const float (&d)[kTokens * kHeads / 2]) const {
    const int key = key_of_tile();
    const int first_key = tiles[set.stage].tile * kMqaKeys;
    const float scale = kRagged ? set.scale : scales[set.stage * kMqaKeys + key];
    const bool there = kRagged || (tiles[set.stage].there >> key / kPartKeys & 1);
    advance(set);
    const int lane = static_cast<int>(threadIdx.x % 4);
    // Half of the maxima are additions, with half of the weight: d + |d| is 2 * max(0, d), and additions and maxima have
    // pipes of their own.
    float sum[kTokens][2];
#pragma unroll
    for (int t = 0; t < kTokens; ++t) sum[t][0] = sum[t][1] = 0;
#pragma unroll
    for (int j = 0; j < kHeads / 4; ++j) {
#pragma unroll
      for (int t = 0; t < kTokens; ++t) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const float dot = d[t * kHeads / 2 + j / 2 * 4 + 2 * h + j % 2];
          sum[t][h] = __fmaf_rn(set.weights[t][j], j % 2 ? fmaxf(dot, 0.0f) : dot + fabsf(dot), sum[t][h]);
        }
      }
    }
    // Four lanes have parts of every sum. Each sends those that are not its own.
    float of_key[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      if constexpr (kTokens == 2) {
        const float other = __shfl_xor_sync(~0u, lane / 2 ? sum[0][h] : sum[1][h], 2);
        of_key[h] = (lane / 2 ? sum[1][h] : sum[0][h]) + other;
      } else {
        of_key[h] = sum[0][h] + __shfl_xor_sync(~0u, sum[0][h], 2);
      }
    }
    const float other = __shfl_xor_sync(~0u, lane % 2 ? of_key[0] : of_key[1], 1);
    const float total = (lane % 2 ? of_key[1] : of_key[0]) + other;
    const int j = first_key + key;
    if (set.out != nullptr && j < columns()) {
      const bool seen = there && static_cast<u32>(j - set.first) < static_cast<u32>(set.count);
      set.out[first_key] = seen ? total * scale : __uint_as_float(0xff800000u);
    }
  }

  template <int kTokens>
  __device__ void consume(int group) const {
    Set<kTokens> set[2] = {};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int number = 2 * group + i;
      const int mates = tile_mates<kTokens>();
      set[i].token = (number & (mates - 1)) * kTokens;
      set[i].stage = number * turns_of(mates) / kSm90MqaSets;
      set[i].segment = -1;
      if (set[i].token < args.next_n) set[i].tiles = end - begin - set[i].stage;
    }
    float d[2][kTokens * kHeads / 2];
    while (set[0].tiles > 0) {
      if (set[0].token >= args.next_n) {  // the last round has no tokens for this group
        advance(set[0]);
        if (set[1].tiles > 0) advance(set[1]);
        continue;
      }
      if (set[1].tiles > 0 && set[1].token < args.next_n) {
        multiply(set[0], d[0]);
        multiply(set[1], d[1]);
        wait<1>(d[0]);
        add_up(set[0], d[0]);
        wait<0>(d[1]);
        add_up(set[1], d[1]);
      } else {
        multiply(set[0], d[0]);
        wait<0>(d[0]);
        add_up(set[0], d[0]);
        if (set[1].tiles > 0) advance(set[1]);
      }
    }
  }

  __device__ void run() {
    share_out();
    const int group = __shfl_sync(~0u, static_cast<int>(threadIdx.x / 128), 0);
    if (group < kSm90MqaGroups) {
      ptx::setmaxnreg_inc<sm90_mqa_scorer_registers(kTogether * kHeads)>();
      if (alone()) {
        consume<1>(group);
      } else {
        consume<kTogether>(group);
      }
      return;
    }
    ptx::setmaxnreg_dec<sm90_mqa_loader_registers(kTogether * kHeads)>();
    if (threadIdx.x / 32 % 4 == 0) {
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
