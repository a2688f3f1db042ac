// The indexer's scores on Hopper, what all warps know: parts of shared memory, which keys a row sees, and
// this block's tiles.
#pragma once
#include "layout/sm90_mqa.cuh"
#include "ptx/barrier.cuh"
#include "ptx/memory.cuh"
#include "ptx/tma.cuh"
#include "ptx/wgmma.cuh"
#include "simt/scan.cuh"

namespace fathom {

/// kHeads: the heads, rounded up to columns of a matrix instruction. kPage: keys of a page.
template <int kHeads, int kDim, int kPage>
struct Sm90MqaBlock {
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
  float* scales;                             // [stages][64]
  Tile* tiles;                               // [stages]
  float* weights;                            // [q_stages][next_n * heads]
  int* before;                               // tiles of all requests before each, [requests + 1]
  u32 barriers;                              // full[stages], empty[stages], q_full[q_stages]
  int rows;                                  // next_n * heads
  int begin, end;                            // this block's tiles

  __device__ Sm90MqaBlock(const Sm90MqaKernel& arguments, u8* shared) : args(arguments) {
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
  /// Whether Sm90MqaDrafts scores: two tokens at a time, four a warpgroup.
  __device__ bool pairs() const { return kTogether == 2 && args.next_n > 2 && args.next_n <= 8; }

  __device__ u32 full(int stage) const { return barriers + 8 * stage; }
  __device__ u32 empty(int stage) const { return barriers + 8 * (args.stages + stage); }
  __device__ u32 q_full(int stage) const { return barriers + 8 * (2 * args.stages + stage); }

  __device__ float* logits(long long row) const { return args.paged.logits + row * args.paged.logits_row; }
  __device__ long long columns() const { return args.paged.max_len; }
  /// How many keys a token sees, of those within the columns.
  __device__ int seen(int request, int token) const {
    const PagedMqaLogitsKernel& paged = args.paged;
    int last = paged.context_lens[request * paged.lens_row + token * paged.lens_step];
    last = static_cast<int>(min(static_cast<long long>(last), columns()));
    return last > 0 ? last : 0;
  }
  /// How many tiles a request has; `length` is its first token's.
  __device__ int count_tiles(int request, int length) const {
    const PagedMqaLogitsKernel& paged = args.paged;
#pragma unroll 1
    for (int i = 1; i < args.next_n; ++i)
      length = max(length, paged.context_lens[request * paged.lens_row + i * paged.lens_step]);
    const int most = static_cast<int>(min(paged.max_len, paged.block_table.pages * kPage));
    return (max(min(length, most), 0) + kMqaKeys - 1) / kMqaKeys;
  }

  /// What is done while the lengths are on their way: barriers are initialised, by all warps because it is
  /// slow, and the block tables come to L2, whatever part of them the lengths will ask for.
  __device__ void set_up() const {
    // From the last, which seldom has lengths to read.
    const int warp = kSm90MqaThreads / 32 - 1 - static_cast<int>(threadIdx.x / 32);
    const BlockTable& table = args.paged.block_table;
    const unsigned lines = static_cast<unsigned>((table.pages + 31) / 32);
    const unsigned line = (threadIdx.x % 64) * gridDim.x + blockIdx.x;
    if (warp < 2 && table.step == 1 && line < lines * static_cast<unsigned>(args.requests))
      ptx::prefetch_l2(table.data + line / lines * table.row + line % lines * 32);
    if (threadIdx.x % 32 != 0) return;
    if (warp == 2) {
      ptx::prefetch_tensormap(&args.keys);
      ptx::prefetch_tensormap(&args.q);
    }
    const int readers = pairs() ? (args.next_n <= 4 ? 4 : 8)
                                : 4 * min(tile_mates<kTogether>(), (args.next_n + kTogether - 1) / kTogether);
#pragma unroll 1
    for (int i = warp; i < args.stages; i += kSm90MqaThreads / 32) {
      ptx::mbarrier_init(full(i), 1);
      ptx::mbarrier_init(empty(i), readers);
      if (i < args.q_stages) ptx::mbarrier_init(q_full(i), 1);
    }
    ptx::fence_mbarrier_init();
  }

  /// The last request that begins at this tile or before, by a whole warp.
  __device__ int request_of(int tile) const {
    const int lane = static_cast<int>(threadIdx.x % 32);
    int request = 0;
#pragma unroll 1
    for (int step = 1024; step > 0; step /= 32) {
      if (step >= args.requests && step > 1) continue;
      const int other = request + lane * step;
      request += step * (__popc(__ballot_sync(~0u, other < args.requests && before[other] <= tile)) - 1);
    }
    return request;
  }

  /// All threads: counts the tiles and takes this block's share of them. The code is short because all of it
  /// is a miss of the instruction cache when a launch begins.
  __device__ void share_out() {
    __shared__ int sums[kSm90MqaThreads / 32];
    const int thread = static_cast<int>(threadIdx.x);
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int warp = static_cast<int>(threadIdx.x / 32);
    int total = 0;
#pragma unroll 1
    for (int request = thread; request - thread <= args.requests; request += kSm90MqaThreads) {
      const bool live = request < args.requests;
      int length = 0;
      if (live) length = args.paged.context_lens[request * args.paged.lens_row];
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
    simt::deal(total, begin, end);
  }
};

}  // namespace fathom
