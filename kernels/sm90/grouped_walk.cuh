// How a cluster finds its tiles in a product of many groups: counts, offsets or ids are read on the device, so the
// host need not know them.
//
// A warp of every block walks, ahead of the others. A cluster that is done with a tile draws the number of its next from
// a queue: those far from their memory would be behind at the end, and before it work on rows that have left L2. The
// order is that of the groups; a group without rows has no tiles. Whatever the index holds is brought into range.
#pragma once
#include "sm90/gemm_prefill.cuh"

namespace fathom {

struct TileQueue {
  u32 drawn;  // numbers, without the first of every cluster
  u32 done;   // clusters. The last one leaves both zero
};
__device__ TileQueue tile_queues[kTileQueues + kRecordedTileQueues];

template <GemmPrefillConfig c>
struct GroupedWalk {
  using Args = GroupedGemmArgs;
  static constexpr u32 kAll = 0xffffffffu;
  static constexpr int kTokens = c.swapped ? c.block_n : c.block_m;
  static constexpr int kWeights = c.swapped ? c.block_m : c.block_n;
  static_assert(c.cluster_m == 1, "two tiles of rows need not be of one group");
  static_assert(!c.swapped || (c.cluster_n == 1 && c.row_scales == c.fp8));

  const Args& all;
  const GemmRing<c>& ring;
  int index = static_cast<int>(blockIdx.x) / c.cluster_n;
  int whole;           // tiles; later indices are of halves
  bool draws = false;  // its indices; otherwise it takes every so many'th
  int numbers = 0;     // drawn
  bool used = false;   // the index
  int lane = static_cast<int>(threadIdx.x) % 32;
  int rank;
  int tiles_n;
  // Counts and offsets: a chunk of at most 32 groups at a time, one a lane, of at most 32 chunks.
  int per_chunk;
  int chunks_through;    // tiles of the chunks up to the lane's
  int base = 0;          // the first group of the chunk held
  int before = 0;        // tiles of the groups before
  int begin, rows;       // the lane's group
  int through = 0;       // tiles of the groups from base to the lane's
  // Ids: the group that this tile of rows came to last.
  int group = -1;

  __device__ GroupedWalk(const Args& args, const GemmRing<c>& shared, int rank_in_cluster)
      : all(args), ring(shared), rank(rank_in_cluster) {
    tiles_n = (args.gemm.n + kWeights * c.cluster_n - 1) / (kWeights * c.cluster_n);
    int tiles = tiles_of(args.gemm.m) * tiles_n;
    if (args.layout != Args::contiguous) {
      count_chunks();
      tiles = __shfl_sync(kAll, chunks_through, 31);
    }
    // In few rounds nobody falls behind.
    draws = args.queue >= 0 && tiles > 4 * clusters();
    whole = tiles;
    if (2 * tiles <= clusters()) halve_rest();
  }
  /// A last round that at most half of the clusters have a tile of is taken in halves.
  __device__ void halve_rest() {
    const int rest = whole % clusters();
    if (c.halves() && 2 * rest <= clusters()) whole -= rest;
  }
  static __device__ int clusters() { return static_cast<int>(gridDim.x) / c.cluster_n; }
  static __device__ const GemmArgs& gemm(const Args& args) { return args.gemm; }
  static __device__ const TensorMap& half_weights(const Args& args) { return args.half_weights; }
  // A swapped tile names the group as the plane of its weights, and the other way round.
  static __device__ int group_of(const GemmTile& t) { return c.swapped ? t.plane : t.group; }
  static __device__ int plane_of(const GemmTile& t) { return c.swapped ? t.group : t.plane; }
  static __device__ i64 weight_scales_of(const Args& args, const GemmTile& t) { return group_of(t) * args.weight_scale_plane; }
  static __device__ i64 token_scales_of(const Args& args, const GemmTile& t) { return plane_of(t) * args.token_scale_plane; }
  static __device__ bool planes_in_fours(const Args& args) { return args.token_scale_plane % 4 == 0; }
  /// `warpgroups`: bits of those whose rows these are.
  static __device__ GemmPlace place(const Args& args, const GemmTile& t, u32 warpgroups) {
    const bool by_id = t.by_id & warpgroups;
    return {t.end, plane_of(t), plane_of(t) * args.out_plane, by_id ? args.index : nullptr, group_of(t)};
  }

  /// Has counts or offsets on their way to L2 while barriers are prepared.
  static __device__ void ask_early(const Args& args) {
    constexpr int kEach = 128 / static_cast<int>(sizeof(int));
    const int first = static_cast<int>(threadIdx.x) % 32 * kEach;
    if (args.layout != Args::contiguous && first <= args.groups) ptx::prefetch_l2(args.index + first);
  }

  /// One warp walks, ahead of all others, and tells them.
  static __device__ void run(const Args& args, const GemmRing<c>& ring, int rank) {
    GemmTile t;
    const bool early = c.swapped && first_of_few(args, t);
    if (early) tell(ring, 0, t, true);
    GroupedWalk walk(args, ring, rank);
    walk.used = early;
    bool more = true;
    for (int count = early; more; ++count) {
      const int place = count % c.tiles_ahead;
      if (count >= c.tiles_ahead) ptx::mbarrier_wait(ring.tile_empty(place), (count / c.tiles_ahead - 1) & 1);
      more = walk.next(t);  // as late as may be, so that no cluster keeps others waiting for its last tile
      tell(ring, place, t, more);
      if (count == 0) walk.halve_rest();  // not before the first tile is known: it takes a division
    }
    walk.leave_queue();
  }
  static __device__ void tell(const GemmRing<c>& ring, int place, const GemmTile& t, bool more) {
    if (threadIdx.x % 32 != 0) return;
    const u32 to = ring.told(place);
    ptx::st_shared_int4(to, {more ? t.token0 : -1, t.row0, t.end, t.group});
    ptx::st_shared_int4(to + 16, {t.plane, t.by_id, t.idle, t.half});
    ptx::mbarrier_arrive(ring.tile_full(place));
  }
  /// The block's first tile where every group has rows for one tile of them: found in a few instructions, for the code of
  /// a walk comes from memory.
  static __device__ bool first_of_few(const Args& args, GemmTile& tile) {
    if (args.layout == Args::contiguous || args.groups > 32) return false;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    int begin, rows;
    find(args, lane, begin, rows);
    if (__any_sync(kAll, lane < args.groups && (rows == 0 || rows > kTokens))) return false;
    const int tiles_n = (args.gemm.n + kWeights - 1) / kWeights;
    const int group = static_cast<int>(blockIdx.x / static_cast<u32>(tiles_n));
    if (group >= args.groups) return false;
    const int column = static_cast<int>(blockIdx.x) - group * tiles_n;
    begin = __shfl_sync(kAll, begin, group);
    const int end = begin + __shfl_sync(kAll, rows, group);
    tile = {column * kWeights, begin, end, args.layout == Args::masked ? group : 0, group, 0, 0, 0};  // swapped
    return true;
  }
  /// Threads that hear of tiles, and so free their places: the warpgroups, the loader and the warp of scales.
  static constexpr int kHearers = 128 * c.groups() + 1 + (c.fp8 ? 32 : 0);
  /// What one of them has heard.
  struct Told {
    u32 first;  // shared address of the ring's first tile
    u32 place = 0;
    u32 phase = 0;

    __device__ explicit Told(const GemmRing<c>& ring) : first(ptx::pinned(ring.told(0))) {}
    __device__ u32 barrier() const { return first + c.tiles_ahead * sizeof(GroupedTile) + 8 * place; }
    __device__ bool next(GemmTile& t) const {
      ptx::mbarrier_wait(barrier(), phase);
      again(t);
      return t.token0 >= 0;
    }
    /// The same tile once more, so that no registers hold it in between.
    __device__ void again(GemmTile& t) const {
      const u32 from = first + place * sizeof(GroupedTile);
      const int4 low = ptx::ld_shared_int4(from);
      const int4 high = ptx::ld_shared_int4(from + 16);
      t = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
    }
    /// After the last look at the tile.
    __device__ void release() {
      ptx::mbarrier_arrive(barrier() + 8 * c.tiles_ahead);
      if (++place == c.tiles_ahead) {
        place = 0;
        phase ^= 1;
      }
    }
  };

  __device__ bool next(GemmTile& tile) {
    if (!(all.layout == Args::contiguous ? next_of_ids(tile) : next_of_groups(tile))) return false;
    if constexpr (c.swapped) {
      tile = {tile.row0, tile.token0, tile.end, tile.plane, tile.group, tile.by_id, tile.idle, 0};
    } else if constexpr (c.halves()) {
      tile.half = index >= whole;
      if (tile.half) tile.row0 += (index - whole) % 2 * (c.block_n / 2);
    }
    return true;
  }

  /// The tile of an index.
  __device__ int tile_at() const { return c.halves() && index > whole ? whole + (index - whole) / 2 : index; }

  /// The next index. One block of a cluster draws it and sends it to the other.
  __device__ void advance() {
    if (!draws) {
      index += clusters();
      return;
    }
    const int place = numbers % c.numbers_ahead;
    const u32 round = numbers++ / c.numbers_ahead;
    if (rank == 0) {
      if (c.cluster_n > 1 && round > 0) ptx::mbarrier_wait(ring.number_empty(place), (round - 1) & 1);
      if (lane == 0) {
        index = clusters() + static_cast<int>(atomicAdd(&tile_queues[all.queue].drawn, 1));
        if constexpr (c.cluster_n > 1) {
          ptx::st_async(ptx::mapa(ring.number(place), 1), __int_as_float(index), ptx::mapa(ring.number_full(place), 1));
        }
      }
      index = __shfl_sync(kAll, index, 0);
    } else {
      if (lane == 0) ptx::mbarrier_arrive_expect_tx(ring.number_full(place), 4);
      ptx::mbarrier_wait(ring.number_full(place), round & 1);
      index = __float_as_int(ptx::ld_shared(ring.number(place)));
      __syncwarp();
      if (lane == 0) ptx::mbarrier_arrive_cluster(ring.number_empty(place), 0);
    }
  }
  __device__ void leave_queue() const {
    if (!draws || rank > 0 || lane > 0) return;
    TileQueue& queue = tile_queues[all.queue];
    if (static_cast<int>(atomicAdd(&queue.done, 1)) + 1 == clusters()) queue = {0, 0};
  }
  static __device__ int tiles_of(int rows) { return (rows + kTokens - 1) / kTokens; }

  /// Tile `at` of a group with so many tiles of rows: in bands of eight, so that what runs at one time shares operands.
  __device__ void place(GemmTile& tile, int at, int tiles_m) const {
    constexpr int kBand = 8;
    int row = 0;
    int column = at;
    if (tiles_m > 1) {  // divisions are long, and a launch begins with a cold instruction cache
      const int band = at / (kBand * tiles_n);
      const int in_band = at % (kBand * tiles_n);
      const int height = min(kBand, tiles_m - band * kBand);
      row = band * kBand + in_band % height;
      column = in_band / height;
    }
    tile.token0 = row * kTokens;
    tile.row0 = (column * c.cluster_n + (c.cluster_n > 1 ? rank : 0)) * kWeights;
  }

  /// Rows [begin, begin + rows) of a group; none if there is no such group.
  static __device__ void find(const Args& all, int g, int& begin, int& rows) {
    begin = rows = 0;
    if (g >= all.groups) return;
    const int most = all.gemm.m;
    if (all.layout == Args::masked) {
      rows = min(max(all.index[g], 0), most);
    } else {
      begin = min(max(all.index[g], 0), most);
      rows = min(max(all.index[g + 1], begin), most) - begin;
    }
  }
  __device__ int sum_through(int value) const {
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const int left = __shfl_up_sync(kAll, value, step);
      if (lane >= step) value += left;
    }
    return value;
  }

  /// All groups once, each lane those of its chunk.
  __device__ void count_chunks() {
    per_chunk = (all.groups + 31) / 32;
    int sum = 0;
#pragma unroll 4
    for (int i = 0; i < per_chunk; ++i) {
      find(all, lane * per_chunk + i, begin, rows);
      sum += tiles_of(rows) * tiles_n;
    }
    chunks_through = sum_through(sum);
    through = per_chunk == 1 ? chunks_through : 0;
  }

  __device__ bool next_of_groups(GemmTile& tile) {
    if (used) advance();
    used = true;
    const int number = tile_at();
    if (number - before >= __shfl_sync(kAll, through, 31)) {
      const u32 later = __ballot_sync(kAll, chunks_through > number);
      if (later == 0) return false;
      const int chunk = __ffs(static_cast<int>(later)) - 1;
      const int left = __shfl_sync(kAll, chunks_through, max(chunk - 1, 0));
      before = chunk > 0 ? left : 0;
      base = per_chunk * chunk;
      find(all, lane < per_chunk ? base + lane : all.groups, begin, rows);
      through = sum_through(tiles_of(rows) * tiles_n);
    }
    const int at = number - before;
    const int owner = __ffs(static_cast<int>(__ballot_sync(kAll, through > at))) - 1;
    const int tiles_m = tiles_of(__shfl_sync(kAll, rows, owner));
    const int first = __shfl_sync(kAll, through, owner) - tiles_m * tiles_n;
    place(tile, at - first, tiles_m);
    const int start = __shfl_sync(kAll, begin, owner);
    tile.token0 += start;
    tile.end = start + __shfl_sync(kAll, rows, owner);
    tile.group = base + owner;
    tile.plane = all.layout == Args::masked ? tile.group : 0;
    tile.by_id = tile.idle = 0;
    return true;
  }

  __device__ int id_of(const GemmTile& tile, int row) const {
    return row < kTokens && tile.token0 + row < all.gemm.m ? all.index[tile.token0 + row] : -1;
  }

  /// Tiles of rows stand at multiples of their size, and each is taken once for every group that it has rows of.
  __device__ bool next_of_ids(GemmTile& tile) {
    constexpr int kEach = (kTokens + 31) / 32;
    constexpr int kShare = c.swapped ? kEach : kEach / c.groups();  // those of a warpgroup
    const int tiles_m = tiles_of(all.gemm.m);
    for (; tile_at() < tiles_m * tiles_n; advance(), group = -1) {
      place(tile, tile_at(), tiles_m);
      int ids[kEach];
#pragma unroll
      for (int i = 0; i < kEach; ++i) ids[i] = id_of(tile, 32 * i + lane);
      int least = all.groups;
#pragma unroll
      for (const int id : ids) {
        if (id > group && id < least) least = id;
      }
      group = static_cast<int>(__reduce_min_sync(kAll, static_cast<u32>(least)));
      if (group >= all.groups) continue;
      int end = 0;
      int others = 0;  // bits of warpgroups
      int its_own = 0;
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const bool its = ids[i] == group;
        const int who = c.swapped ? 3 : 1 << i / kShare;
        if (its) {
          end = 32 * i + lane + 1;
          its_own |= who;
        } else if (32 * i + lane < kTokens) {
          others |= who;
        }
      }
      tile.end = tile.token0 + __reduce_max_sync(kAll, end);
      tile.by_id = static_cast<int>(__reduce_or_sync(kAll, static_cast<u32>(others)));
      tile.idle = ~static_cast<int>(__reduce_or_sync(kAll, static_cast<u32>(its_own)));
      tile.group = group;
      tile.plane = 0;
      return true;
    }
    return false;
  }
};

template <GemmPrefillConfig c>
__device__ __forceinline__ void grouped_prefill(const GroupedGemmArgs& args) {
  extern __shared__ unsigned char shared[];
  GemmPrefill<c, GroupedWalk<c>>(args, shared).run();
}

}  // namespace fathom
