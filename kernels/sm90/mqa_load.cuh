// The indexer's scores on Hopper, loading warps: queries and tiles of keys to shared memory, and -inf where
// no tile is.
#pragma once
#include "sm90/mqa_block.cuh"

namespace fathom {

template <int kHeads, int kDim, int kPage>
struct Sm90MqaLoader {
  using Block = Sm90MqaBlock<kHeads, kDim, kPage>;
  using Tile = Block::Tile;
  const Block& block;

  /// Queries of a request and their weights, by a warp.
  __device__ void load_queries(int request, int segment) const {
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int stage = segment & (block.args.q_stages - 1);
    const MqaQueries& q = block.args.paged.q;
    const bool whole = q.heads == kHeads;  // or there are heads of zeros, whose weights are not to be read
    const int tokens = block.args.next_n;
    if (!whole) {
#pragma unroll 1
      for (int i = lane; i < tokens * kHeads; i += 32) {
        const int head = i % kHeads;
        const long long row = static_cast<long long>(request) * block.args.next_n + i / kHeads;
        block.weights[stage * block.rows + i] = head < q.heads ? q.weights[row * q.weights_row + head] : 0.0f;
      }
      __syncwarp();
    }
    if (lane != 0) return;
    ptx::mbarrier_arrive_expect_tx(block.q_full(stage),
                                   static_cast<u32>(tokens * kHeads * (128 + (whole ? 4 : 0))));
    const u32 to = block.queries + stage * sm90_mqa_q_bytes(block.rows);
    ptx::cp_async_bulk_tensor_4d(to, &block.args.q, block.q_full(stage), 0, 0, 0, request, ptx::kEvictNormal);
    if (!whole) return;
    const int copies = q.weights_row == kHeads ? 1 : tokens;
#pragma unroll 1
    for (int i = 0; i < copies; ++i) {
      const long long row = static_cast<long long>(request) * tokens + i;
      ptx::cp_async_bulk(ptx::shared_address(block.weights + stage * block.rows + i * kHeads),
                         q.weights + row * q.weights_row, kHeads * 4 * (copies == 1 ? tokens : 1), block.q_full(stage));
    }
  }
  __device__ void load_keys(int stage, const Tile& tile, const int (&pages)[Block::kParts]) const {
    block.tiles[stage] = tile;
    if (!tile.there) {
      ptx::mbarrier_arrive(block.full(stage));
      return;
    }
    const u32 to = block.ring + stage * kSm90MqaTile;
    ptx::mbarrier_arrive_expect_tx(block.full(stage),
                                   static_cast<u32>(__popc(tile.there) * Block::kPartKeys * (128 + 4)));
    const int entry = kPage > kMqaKeys ? tile.tile * kMqaKeys % kPage : 0;
#pragma unroll
    for (int part = 0; part < Block::kParts; ++part) {
      if (!(tile.there >> part & 1)) continue;
      // Scales first: lanes copy together, and the first tile's would come after everybody's keys.
      const u8* page =
          static_cast<const u8*>(block.args.paged.cache.data) + pages[part] * block.args.paged.cache.page;
      ptx::cp_async_bulk(ptx::shared_address(block.scales + stage * kMqaKeys + part * Block::kPartKeys),
                         page + kPage * kDim + 4 * entry, 4 * Block::kPartKeys, block.full(stage));
      ptx::cp_async_bulk_tensor_3d(to + part * Block::kPartKeys * 128, &block.args.keys, block.full(stage),
                                   0, entry, pages[part], ptx::kEvictFirst);
    }
  }

  /// One warp: this block's tiles, a lane for each of the next 32. Lanes find their pages, wait for room and
  /// describe their tiles side by side, so a tile costs the warp little more than the instructions that copy
  /// it.
  __device__ void produce() const {
    constexpr int kRun = 4;  // tiles whose places are waited for together
    const int lane = static_cast<int>(threadIdx.x % 32);
    int request = block.begin < block.end ? block.request_of(block.begin) : 0;
    const int shift = __ffs(block.args.stages) - 1;
    int segments = 0;
    int opened = 0;  // the first tile of the last segment
#pragma unroll 1
    for (int base = block.begin; base < block.end; base += 32) {
      const int count = min(32, block.end - base);
      const int at = min(base + lane, block.end - 1);
#pragma unroll 1
      while (block.before[request + 1] <= at) ++request;
      const int start = block.before[request];
      const unsigned starts = __ballot_sync(~0u, lane < count && at == max(start, block.begin));
      const int segment = segments + __popc(starts & ~0u >> (31 - lane)) - 1;
      const int tile = at - start;
      int pages[Block::kParts];
      int there = 0;
#pragma unroll
      for (int part = 0; part < Block::kParts; ++part) {
        pages[part] = -1;
        const BlockTable& table = block.args.paged.block_table;
        const long long index = (static_cast<long long>(tile) * kMqaKeys + part * Block::kPartKeys) / kPage;
        if (index < table.pages) pages[part] = table.data[request * table.row + index * table.step];
      }
      const int stage = (at - block.begin) & (block.args.stages - 1);
      const int round = (at - block.begin) >> shift;
#pragma unroll 1
      for (int from = 0, to; from < count; from = to) {
        if (starts >> from & 1) {
          // Queries take the place of those that all tiles before `done` have met.
          const int now = base + from - block.begin;
          const int done = block.args.q_stages == 1 ? now : opened;
          const int last = done - 1 - lane;
          if (lane < kSm90MqaSets && last >= 0 && last + block.args.stages >= now)
            ptx::mbarrier_wait(block.empty(last & (block.args.stages - 1)), last >> shift & 1);
          __syncwarp();
          load_queries(__shfl_sync(~0u, request, from), __shfl_sync(~0u, segment, from));
          opened = now;
        }
        const unsigned later = starts & ~1u << from;
        const int run = base + from - block.begin < block.args.stages
                            ? 1
                            : kRun;  // at first there is room for all: no time is lost
        to = min(min(from + run, count), later == 0 ? 32 : __ffs(static_cast<int>(later)) - 1);
        if (lane >= from && lane < to) {
#pragma unroll
          for (int part = 0; part < Block::kParts; ++part)
            there |= (pages[part] >= 0 && pages[part] < block.args.paged.cache.pages) << part;
          if (round > 0) ptx::mbarrier_wait(block.empty(stage), (round - 1) & 1);
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
    const unsigned chunks = static_cast<unsigned>((block.columns() + kColumns - 1) / kColumns);
    const unsigned units = static_cast<unsigned>(block.args.requests) * chunks;
#pragma unroll 1
    for (unsigned unit = blockIdx.x * kWarps + kSm90MqaThreads / 32 - 1 - threadIdx.x / 32; unit < units;
         unit += gridDim.x * kWarps) {
      const int request = static_cast<int>(unit / chunks);
      const int from = static_cast<int>(unit % chunks) * kColumns;
      const int to = static_cast<int>(min(static_cast<long long>(from) + kColumns, block.columns()));
      const int covered = (block.before[request + 1] - block.before[request]) * kMqaKeys;
#pragma unroll 1
      for (int token = 0; token < block.args.next_n; ++token) {
        float* out = block.logits(static_cast<long long>(request) * block.args.next_n + token);
#pragma unroll 1
        for (int j = max(from, covered) + lane; j < to; j += 32) out[j] = __uint_as_float(0xff800000u);
      }
    }
  }
};

}  // namespace fathom
