// How a cluster finds its tiles in a product of many groups: counts, offsets or ids are read on the device, so the
// host need not know them.
//
// A warp walks together. Every cluster takes every so many'th tile, so nothing is handed from one to another; a
// group without rows has no tiles, and tiles all cost the same, so the order is that of the groups. Whatever the
// index holds is brought into range.
#pragma once
#include "sm90/gemm_prefill.cuh"

namespace fathom {

template <GemmPrefillConfig c>
struct GroupedWalk {
  using Args = GroupedGemmArgs;
  static constexpr u32 kAll = 0xffffffffu;
  static constexpr int kTokens = c.swapped ? c.block_n : c.block_m;
  static constexpr int kWeights = c.swapped ? c.block_m : c.block_n;
  static_assert(c.cluster_m == 1, "two tiles of rows need not be of one group");
  static_assert(!c.swapped || (c.cluster_n == 1 && c.row_scales == c.fp8));

  const Args& all;
  int index = static_cast<int>(blockIdx.x) / c.cluster_n;
  int lane = static_cast<int>(threadIdx.x) % 32;
  int rank;
  int tiles_n;
  // Counts and offsets: 32 groups at a time, one a lane, of at most 32 times 32.
  int chunks_through;    // tiles of the groups before 32 * (lane + 1)
  int base = 0;          // the first of those held
  int before = 0;        // tiles of the groups before
  int begin, rows;       // the lane's group
  int through = 0;       // tiles of the groups from base to the lane's
  // Ids: the group that this tile of rows came to last.
  int group = -1;

  __device__ GroupedWalk(const Args& args, int rank_in_cluster) : all(args), rank(rank_in_cluster) {
    tiles_n = (args.gemm.n + kWeights * c.cluster_n - 1) / (kWeights * c.cluster_n);
    if (args.layout != Args::contiguous) count_chunks();
  }
  static __device__ const GemmArgs& gemm(const Args& args) { return args.gemm; }
  // A swapped tile names the group as the plane of its weights, and the other way round.
  static __device__ int group_of(const GemmTile& t) { return c.swapped ? t.plane : t.group; }
  static __device__ int plane_of(const GemmTile& t) { return c.swapped ? t.group : t.plane; }
  static __device__ i64 weight_scales_of(const Args& args, const GemmTile& t) { return group_of(t) * args.weight_scale_plane; }
  static __device__ i64 token_scales_of(const Args& args, const GemmTile& t) { return plane_of(t) * args.token_scale_plane; }
  static __device__ bool planes_in_fours(const Args& args) { return args.token_scale_plane % 4 == 0; }
  static __device__ GemmPlace place(const Args& args, const GemmTile& t) {
    return {t.end, plane_of(t), plane_of(t) * args.out_plane, t.by_id ? args.index : nullptr, group_of(t)};
  }

  /// The loader tells the warpgroups: before the barrier of the tile's first block.
  static __device__ void tell(u32 slots, int count, const GemmTile& t) {
    const u32 to = slots + static_cast<u32>(count % c.slots()) * sizeof(GroupedTile);
    ptx::st_shared_int4(to, {t.token0, t.row0, t.end, t.group});
    ptx::st_shared_int4(to + 16, {t.plane, t.by_id, 0, 0});
  }
  struct Told {
    u32 first, last, slot;  // shared addresses
    __device__ explicit Told(u32 slots) : first(slots) {
      slot = first - sizeof(GroupedTile);
      last = first + (c.slots() - 1) * sizeof(GroupedTile);
    }
    /// Waits for the tile's first block, and so for what the loader wrote before it.
    template <class Reader>
    __device__ bool next(GemmTile& t, const Reader& at) {
      slot = slot == last ? first : slot + sizeof(GroupedTile);
      at.wait();
      again(t);
      return t.token0 >= 0;
    }
    /// The same tile once more, so that no registers hold it in between.
    __device__ void again(GemmTile& t) const {
      const int4 low = ptx::ld_shared_int4(slot);
      const int4 high = ptx::ld_shared_int4(slot + 16);
      t = {low.x, low.y, low.z, low.w, high.x, high.y != 0};
    }
  };

  __device__ bool next(GemmTile& tile) {
    if (!(all.layout == Args::contiguous ? next_of_ids(tile) : next_of_groups(tile))) return false;
    if constexpr (c.swapped) {
      tile = {tile.row0, tile.token0, tile.end, tile.plane, tile.group, tile.by_id};
    }
    return true;
  }

  __device__ void advance() { index += static_cast<int>(gridDim.x) / c.cluster_n; }
  static __device__ int tiles_of(int rows) { return (rows + kTokens - 1) / kTokens; }

  /// Tile `at` of a group with so many tiles of rows: in bands of eight, so that what runs at one time shares operands.
  __device__ void place(GemmTile& tile, int at, int tiles_m) const {
    constexpr int kBand = 8;
    const int band = at / (kBand * tiles_n);
    const int in_band = at % (kBand * tiles_n);
    const int height = min(kBand, tiles_m - band * kBand);
    tile.token0 = (band * kBand + in_band % height) * kTokens;
    tile.row0 = (in_band / height * c.cluster_n + (c.cluster_n > 1 ? rank : 0)) * kWeights;
  }

  /// Rows [begin, begin + rows) of a group; none if there is no such group.
  __device__ void find(int g, int& begin, int& rows) const {
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

  /// All groups once, eight loads at a time: whoever walked them one after the other would start late.
  __device__ void count_chunks() {
    constexpr int kAtOnce = 8;
    int mine = 0;
#pragma unroll 1
    for (int chunk = 0; 32 * chunk < all.groups; chunk += kAtOnce) {
      int tiles[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        int first, count;
        find(32 * (chunk + i) + lane, first, count);
        tiles[i] = tiles_of(count);
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const int sum = __reduce_add_sync(kAll, tiles[i]);
        if (lane == chunk + i) mine = sum * tiles_n;
      }
    }
    chunks_through = sum_through(mine);
  }

  __device__ bool next_of_groups(GemmTile& tile) {
    if (index - before >= __shfl_sync(kAll, through, 31)) {
      const u32 later = __ballot_sync(kAll, chunks_through > index);
      if (later == 0) return false;
      const int chunk = __ffs(static_cast<int>(later)) - 1;
      const int left = __shfl_sync(kAll, chunks_through, max(chunk - 1, 0));
      before = chunk > 0 ? left : 0;
      base = 32 * chunk;
      find(base + lane, begin, rows);
      through = sum_through(tiles_of(rows) * tiles_n);
    }
    const int at = index - before;
    const int owner = __ffs(static_cast<int>(__ballot_sync(kAll, through > at))) - 1;
    const int tiles_m = tiles_of(__shfl_sync(kAll, rows, owner));
    const int first = __shfl_sync(kAll, through, owner) - tiles_m * tiles_n;
    place(tile, at - first, tiles_m);
    const int start = __shfl_sync(kAll, begin, owner);
    tile.token0 += start;
    tile.end = start + __shfl_sync(kAll, rows, owner);
    tile.group = base + owner;
    tile.plane = all.layout == Args::masked ? tile.group : 0;
    tile.by_id = false;
    advance();
    return true;
  }

  __device__ int id_of(const GemmTile& tile, int row) const {
    return row < kTokens && tile.token0 + row < all.gemm.m ? all.index[tile.token0 + row] : -1;
  }

  /// Tiles of rows stand at multiples of their size, and each is taken once for every group that it has rows of.
  __device__ bool next_of_ids(GemmTile& tile) {
    constexpr int kEach = (kTokens + 31) / 32;
    const int tiles_m = tiles_of(all.gemm.m);
    for (; index < tiles_m * tiles_n; advance(), group = -1) {
      place(tile, index, tiles_m);
      int least = all.groups;
#pragma unroll 2
      for (int i = 0; i < kEach; ++i) {
        const int id = id_of(tile, 32 * i + lane);
        if (id > group && id < least) least = id;
      }
      least = static_cast<int>(__reduce_min_sync(kAll, static_cast<u32>(least)));
      if (least >= all.groups) continue;
      bool whole = true;
      int end = 0;
#pragma unroll 2
      for (int i = 0; i < kEach; ++i) {
        const bool its = id_of(tile, 32 * i + lane) == least;
        whole = whole && (its || 32 * i + lane >= kTokens);
        if (its) end = 32 * i + lane + 1;
      }
      whole = __all_sync(kAll, whole);
      tile.end = tile.token0 + __reduce_max_sync(kAll, end);
      tile.group = least;
      tile.plane = 0;
      tile.by_id = !whole;
      group = least;
      if (whole) {  // nothing else to find here
        advance();
        group = -1;
      }
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
