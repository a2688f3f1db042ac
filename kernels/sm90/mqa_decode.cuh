// The indexer's scores on Hopper, paged calls of one or two tokens a request: what counts is how soon keys
// are on their way.
//
// Most of such a call's time is the memory's: lengths, page numbers and keys are read one after the other. So
// every block is given a request and its share of that request's first tiles beforehand, as many as its ring
// takes: lengths and page numbers are asked for together, and the keys are on their way before anybody knows
// what the other requests' lengths are. Tiles beyond are dealt so that all blocks have the same number in the
// end.
#pragma once
#include "sm90/mqa_load.cuh"
#include "sm90/mqa_sum.cuh"

namespace fathom {

template <int kHeads, int kDim, int kPage, int kTokens>
struct Sm90MqaDecode {
  using Block = Sm90MqaBlock<kHeads, kDim, kPage>;
  using Tile = Block::Tile;
  using Pages = int[Block::kParts];
  static constexpr int kLoaders = 4;                               // warps that load, every fourth tile each
  static constexpr int kGroups = sm90_mqa_decode_groups(kTokens);  // warpgroups that score, a tile each
  static constexpr int kScorers = 128 * kGroups;
  static constexpr int kThreads = kScorers + 128;
  static constexpr int kStages = sm90_mqa_decode_stages(kTokens);
  static constexpr int kQStages = 2;
  static_assert(kStages % kGroups == 0 && kStages % kLoaders == 0);

  Block block;
  int per, more;    // blocks of a request, and requests that have one more
  int own;          // this block's request
  int first, step;  // of its tiles, the first and the distance that are this block's
  int* shares;  // what of the rest is whose: before[requests] tiles in all, then this block's first and last

  __device__ Sm90MqaDecode(const Sm90MqaKernel& args, u8* shared) : block(args, shared) {
    shares = block.before + args.requests + 1;
    // Small numbers, whose quotients are far enough from whole ones.
    const int blocks = static_cast<int>(gridDim.x);
    per = static_cast<int>(__fdividef(static_cast<float>(blocks) + 0.5f, static_cast<float>(args.requests)));
    more = blocks - per * args.requests;
    const int at = static_cast<int>(blockIdx.x);
    const int longer = more * (per + 1);
    step = per + (at < longer);
    const int from = at < longer ? at : at - longer;
    const int quotient =
        static_cast<int>(__fdividef(static_cast<float>(from) + 0.5f, static_cast<float>(step)));
    own = (at < longer ? 0 : more) + quotient;
    first = from - quotient * step;
  }
  __device__ int blocks_of(int request) const { return per + (request < more); }
  __device__ u32 q_empty(int stage) const {
    return block.barriers + 8 * (2 * block.args.stages + block.args.q_stages + stage);
  }

  __device__ int count_tiles(int length) const {
    const PagedMqaLogitsKernel& paged = block.args.paged;
    const int most = static_cast<int>(min(paged.max_len, paged.block_table.pages * kPage));
    return (max(min(length, most), 0) + kMqaKeys - 1) / kMqaKeys;
  }
  /// The keys that any of a request's tokens sees.
  __device__ int length_of(int request) const {
    const int* lens = block.args.paged.context_lens + request * block.args.paged.lens_row;
    int length = lens[0];
    if constexpr (kTokens == 2) length = max(length, lens[block.args.paged.lens_step]);
    return length;
  }

  /// The scorers' threads, while the loader's first reads are under way.
  __device__ void set_up() const {
    const int warp = static_cast<int>(threadIdx.x / 32);
    if (threadIdx.x == 0) {
      ptx::prefetch_tensormap(&block.args.keys);
      ptx::prefetch_tensormap(&block.args.q);
    }
    const BlockTable& table = block.args.paged.block_table;
    if (threadIdx.x % 32 == 0) {
      for (int i = warp; i < kStages; i += kScorers / 32) {
        ptx::mbarrier_init(block.full(i), 1);
        ptx::mbarrier_init(block.empty(i), 4);
        if (i < kQStages) {
          ptx::mbarrier_init(block.q_full(i), 1);
          ptx::mbarrier_init(q_empty(i), kLoaders);
        }
      }
      ptx::fence_mbarrier_init();
    }
    // Block tables come to L2, whatever part of them the lengths will ask for.
    const unsigned lines = static_cast<unsigned>((table.pages + 31) / 32);
    const unsigned line = threadIdx.x * gridDim.x + blockIdx.x;
    if (table.step == 1 && line < lines * static_cast<unsigned>(block.args.requests))
      ptx::prefetch_l2(table.data + line / lines * table.row + line % lines * 32);
  }

  /// The sum of a value over the scorers' threads, and of those before this one.
  __device__ int sum(int value, int (&sums)[kScorers / 32], int& before) const {
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int warp = static_cast<int>(threadIdx.x / 32);
    const int through = simt::warp_inclusive_sum(value, lane);
    ptx::bar_sync(2, kScorers);
    if (lane == 31) sums[warp] = through;
    ptx::bar_sync(2, kScorers);
    const int part = lane < kScorers / 32 ? sums[lane] : 0;
    before = __reduce_add_sync(~0u, lane < warp ? part : 0) + through - value;
    return __reduce_add_sync(~0u, part);
  }
  /// The scorers' threads: deal the tiles that nobody is given.
  __device__ void share_out() const {
    __shared__ int sums[kScorers / 32];
    const int requests = block.args.requests;
    int total = 0;
    int mine = 0;  // tiles that a block of this thread's request is given
    int blocks = 0;
#pragma unroll 1
    for (int request = static_cast<int>(threadIdx.x); request - static_cast<int>(threadIdx.x) < requests;
         request += kScorers) {
      int rest = 0;
      if (request < requests) {
        const int count = count_tiles(length_of(request));
        const int those = blocks_of(request);
        rest = max(count - those * kStages, 0);
        if (those > 0) {  // so this is the first round
          blocks = those;
          mine = rest > 0 ? kStages
                          : static_cast<int>(__fdividef(static_cast<float>(count + those) - 0.5f,
                                                        static_cast<float>(those)));
        }
      }
      int before;
      const int all = sum(rest, sums, before);
      if (request < requests) block.before[request] = total + before;
      total += all;
    }
    // All blocks are to have as many tiles as the average.
    int before;
    const unsigned every = static_cast<unsigned>(total + sum(blocks * mine, sums, before));
    const int average = static_cast<int>((every + gridDim.x - 1) / gridDim.x);
    const int room = max(average - mine, 0);
    sum(blocks * room, sums, before);
    if (static_cast<int>(threadIdx.x) == own) {
      const int from = min(before + first * room, total);
      shares[0] = from;
      shares[1] = min(from + room, total);
    }
    if (threadIdx.x == 0) block.before[requests] = total;
  }

  static __device__ int warp() { return static_cast<int>(threadIdx.x / 32 % kLoaders); }
  /// Asks for the pages of a tile.
  __device__ void find_pages(int request, int tile, Pages& pages) const {
    const BlockTable& table = block.args.paged.block_table;
#pragma unroll
    for (int part = 0; part < Block::kParts; ++part) {
      const long long index = (static_cast<long long>(tile) * kMqaKeys + part * Block::kPartKeys) / kPage;
      pages[part] = index < table.pages ? table.data[request * table.row + index * table.step] : -1;
    }
  }
  __device__ void load_tile(const Sm90MqaLoader<kHeads, kDim, kPage>& loader, int place, int request,
                            int tile, int segment, const Pages& pages) const {
    int there = 0;
#pragma unroll
    for (int part = 0; part < Block::kParts; ++part)
      there |= (pages[part] >= 0 && pages[part] < block.args.paged.cache.pages) << part;
    const int stage = place % kStages;
    if (place >= kStages) ptx::mbarrier_wait(block.empty(stage), place / kStages - 1 & 1);
    loader.load_keys(stage, {request, tile, segment, there}, pages);
  }

  /// The loader's warps.
  __device__ void load() const {
    const Sm90MqaLoader<kHeads, kDim, kPage> loader{block};
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int length = length_of(own);
    Pages pages;
    find_pages(own, first + lane * step, pages);
    ptx::bar_sync(1, kThreads);
    ptx::setmaxnreg_dec<kMqaDecodeLoaderRegisters>();
    const int tiles = count_tiles(length);
    const bool live = lane < kStages && first + lane * step < tiles;
    const int start = __popc(__ballot_sync(~0u, live));  // the place of the first tile that was not given
    if (start > 0 && warp() == kLoaders - 1) loader.load_queries(own, 0);
    if (live && lane % kLoaders == warp()) load_tile(loader, lane, own, first + lane * step, 0, pages);
    __syncthreads();
    int at = shares[0];
    const int end = shares[1];
    int request = 0;
#pragma unroll 1
    for (int pace = 1024; pace > 0 && at < end; pace /= 32) {
      if (pace >= block.args.requests && pace > 1) continue;
      const int other = request + lane * pace;
      request +=
          pace * (__popc(__ballot_sync(~0u, other < block.args.requests && block.before[other] <= at)) - 1);
    }
    int segments = start > 0;
    int previous = start > 0 ? own : -1;
    int opened = 0;  // the first place of the last segment
#pragma unroll 1
    for (int place = start; at < end; at += 32, place += 32) {
      const int mine = min(at + lane, end - 1);
#pragma unroll 1
      while (block.before[request + 1] <= mine) ++request;
      const int tile = mine - block.before[request] + kStages * blocks_of(request);
      find_pages(request, tile, pages);
      int below = __shfl_up_sync(~0u, request, 1);
      if (lane == 0) below = previous;
      const unsigned starts = __ballot_sync(~0u, request != below);
      const unsigned loads = __ballot_sync(~0u, at + lane < end && (place + lane) % kLoaders == warp());
      const int segment = segments + __popc(starts & ~0u >> (31 - lane)) - 1;
#pragma unroll 1
      for (unsigned left = starts | loads; left != 0; left &= left - 1) {
        const int i = __ffs(static_cast<int>(left)) - 1;
        const int now = place + i;
        if (starts >> i & 1) {
          // Queries take the place of those that all tiles before `done` have met; a warp answers for its
          // own, and waits for the others even if it loads none of these queries: its tile would else be
          // there before them, and be multiplied by those whose place they take.
          const int those = __shfl_sync(~0u, segment, i);
          const int done = opened;
          opened = now;
          if (those >= kQStages) {
            const u32 free = q_empty(those % kQStages);
            const int last = done - 1 - ((done - 1 - warp()) & (kLoaders - 1));
            if (last >= 0 && last + kStages >= now)
              ptx::mbarrier_wait(block.empty(last % kStages), last / kStages & 1);
            if (lane == 0) ptx::mbarrier_arrive(free);
            ptx::mbarrier_wait(free, those / kQStages - 1 & 1);
          }
          if (loads >> i & 1) loader.load_queries(__shfl_sync(~0u, request, i), those);
        }
        if (loads >> i & 1) {
          if (lane == i) load_tile(loader, now, request, tile, segment, pages);
          __syncwarp();
        }
      }
      segments += __popc(starts);
      previous = request = __shfl_sync(~0u, request, 31);
    }
  }

  /// The loader's warps: -inf where no tile is.
  __device__ void fill() const {
    constexpr int kColumns = 1024;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const unsigned chunks = static_cast<unsigned>((block.columns() + kColumns - 1) / kColumns);
    const unsigned units = static_cast<unsigned>(block.args.requests) * chunks;
#pragma unroll 1
    for (unsigned unit = blockIdx.x * kLoaders + warp(); unit < units; unit += gridDim.x * kLoaders) {
      const int request = static_cast<int>(unit / chunks);
      const int from = static_cast<int>(unit % chunks) * kColumns;
      const int to = static_cast<int>(min(static_cast<long long>(from) + kColumns, block.columns()));
      const int covered = max(from, count_tiles(length_of(request)) * kMqaKeys);
#pragma unroll 1
      for (int token = 0; token < kTokens; ++token) {
        float* out = block.logits(static_cast<long long>(request) * kTokens + token);
#pragma unroll 1
        for (int j = covered + lane; j < to; j += 32) out[j] = __uint_as_float(0xff800000u);
      }
    }
  }

  /// A warpgroup that scores: every tile that is its turn. Of four lanes, lane i stores the scores of token i
  /// / 2 with key i % 2.
  __device__ void score(int group) const {
    const int lane = static_cast<int>(threadIdx.x) % 4;
    const int thread = static_cast<int>(threadIdx.x) % 128;
    const int key = thread / 32 * 16 + thread % 32 / 4 + 8 * (thread % 2);
    const int tiles = count_tiles(length_of(own));
    const int owned =
        min(kStages, tiles > first
                         ? static_cast<int>(__fdividef(static_cast<float>(tiles - first - 1 + step) + 0.5f,
                                                       static_cast<float>(step)))
                         : 0);
    const int count = owned + shares[1] - shares[0];
    int segment = -1;
    float weights[kTokens][kHeads / 4];
    float* out = nullptr;
    int length = 0;
    float d[kTokens * kHeads / 2];
#pragma unroll 1
    for (int place = group; place < count; place += kGroups) {
      const int stage = place % kStages;
      ptx::mbarrier_wait(block.full(stage), place / kStages & 1);
      const Tile tile = block.tiles[stage];
      const float scale = block.scales[stage * kMqaKeys + key];
      const int now = __shfl_sync(~0u, tile.segment, 0);
      const bool other = now != segment;
      const int q_stage = now % kQStages;
      if (other) {
        segment = now;
        ptx::mbarrier_wait(block.q_full(q_stage), now / kQStages & 1);
#pragma unroll
        for (int t = 0; t < kTokens; ++t)
          sm90_mqa_weights<kHeads>(block.weights + q_stage * block.rows + t * kHeads, weights[t]);
        const int token = min(lane / 2, kTokens - 1);
        length =
            block.args.paged
                .context_lens[tile.request * block.args.paged.lens_row + token * block.args.paged.lens_step];
        out = block.logits(static_cast<long long>(tile.request) * kTokens + token) + key;
      }
      const u32 a = block.ring_low + stage * (kSm90MqaTile / 16);
      const u32 b = block.queries_low + q_stage * (sm90_mqa_q_bytes(block.rows) / 16);
      sm90_mqa_multiply<kTokens * kHeads, kDim>(d, a, b);
      sm90_mqa_wait<0>(d);
      __syncwarp();
      if (threadIdx.x % 32 == 0) ptx::mbarrier_arrive(block.empty(stage));
      float sum[kTokens][2];
      sm90_mqa_sum<kTokens, kHeads>(weights, d, sum);
      float of_key[2];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float& low = sum[0][h];
        const float& high = sum[kTokens - 1][h];
        const float other = __shfl_xor_sync(~0u, lane / 2 ? low : high, 2);
        of_key[h] = (lane / 2 ? high : low) + other;
      }
      const float total =
          (lane % 2 ? of_key[1] : of_key[0]) + __shfl_xor_sync(~0u, lane % 2 ? of_key[0] : of_key[1], 1);
      const int j = tile.tile * kMqaKeys + key;
      if (lane < 2 * kTokens && j < block.columns()) {
        const bool seen = (tile.there >> key / Block::kPartKeys & 1) && j < length;
        out[tile.tile * kMqaKeys] = seen ? total * scale : __uint_as_float(0xff800000u);
      }
    }
  }
};

template <int kHeads, int kDim, int kPage, int kTokens>
__device__ void sm90_mqa_decode(const Sm90MqaKernel& args) {
  extern __shared__ u8 shared[];
  const int group = __shfl_sync(~0u, static_cast<int>(threadIdx.x / 128), 0);
  Sm90MqaDecode<kHeads, kDim, kPage, kTokens> decode(args, shared);
  if (group < decode.kGroups) {
    decode.set_up();
    ptx::bar_arrive(1, decode.kThreads);
    decode.share_out();
    ptx::setmaxnreg_inc<sm90_mqa_decode_registers(kTokens)>();
    __syncthreads();
    decode.score(group);
  } else {
    decode.load();
    decode.fill();
  }
}

}  // namespace fathom
