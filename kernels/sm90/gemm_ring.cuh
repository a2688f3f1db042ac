// The shared memory of the prefill kernel: the tile that results leave from, a ring of k blocks, a ring of scales, and
// their barriers; of a grouped product also a ring of tiles.
#pragma once
#include "layout/gemm.cuh"
#include "ptx/barrier.cuh"

namespace fathom {

/// A tile of out, and whose it is. `end`: the first row that is not.
struct GemmTile {
  int token0, row0;
  int end = 0;
  int group = 0;  // of weights
  int plane = 0;  // of tokens and result
  int by_id = 0;  // GroupedTile's
  int idle = 0;
  int half = 0;
};

template <GemmPrefillConfig c>
struct GemmRing {
  static constexpr int kCluster = c.cluster_m * c.cluster_n;

  u32 store_tile;  // shared addresses
  u32 stages;
  u32 barriers;  // full[stages], empty[stages], scale_full[scale_stages], scale_empty[scale_stages]
  u32 tiles;     // GroupedTile[tiles_ahead], their barriers full[], empty[]; barriers of numbers likewise, and those.
                 // Of a product that shares: a barrier and a word
  float* scales;

  __device__ explicit GemmRing(u8* shared) {
    const u32 base = ptx::shared_address(shared);
    const u32 aligned = (base + 1023) & ~1023u;
    store_tile = aligned;
    stages = aligned + c.store_bytes();
    const u32 end = stages + c.stages * c.stage_bytes();
    scales = reinterpret_cast<float*>(shared + (end - base));
    barriers = end + c.scale_bytes();
    tiles = barriers + 16 * (c.stages + c.scale_stages);
  }

  __device__ u32 full(int stage) const { return barriers + 8 * stage; }
  __device__ u32 empty(int stage) const { return barriers + 8 * (c.stages + stage); }
  __device__ u32 scale_full(int stage) const { return barriers + 8 * (2 * c.stages + stage); }
  __device__ u32 scale_empty(int stage) const { return barriers + 8 * (2 * c.stages + c.scale_stages + stage); }
  __device__ u32 told(int place) const { return tiles + place * static_cast<int>(sizeof(GroupedTile)); }
  __device__ u32 tile_full(int place) const { return told(c.tiles_ahead) + 8 * place; }
  __device__ u32 tile_empty(int place) const { return tile_full(c.tiles_ahead + place); }
  __device__ u32 number_full(int place) const { return tile_full(2 * c.tiles_ahead + place); }
  __device__ u32 number_empty(int place) const { return number_full(c.numbers_ahead + place); }
  __device__ u32 number(int place) const { return number_full(2 * c.numbers_ahead) + 4 * place; }
  __device__ u32 share_known() const { return tiles; }
  __device__ u32 share() const { return tiles + 8; }
  __device__ u32 token_tile(int stage) const { return stages + stage * c.stage_bytes(); }
  __device__ u32 weight_tile(int stage) const { return stages + stage * c.stage_bytes() + c.block_m * 128; }

  /// The ring stage has been read by this warpgroup: its slot may be filled again, here and at the neighbour's.
  __device__ void release(u32 stage) const {
    const u32 thread = threadIdx.x % 128;
    if constexpr (kCluster > 1) {
      if (thread < kCluster) ptx::mbarrier_arrive_cluster(empty(stage), thread);
    } else {
      if (thread == 0) ptx::mbarrier_arrive(empty(stage));
    }
  }

  /// Where a warpgroup is in the ring, with the addresses that its stage needs.
  struct Reader {
    u32 full;  // barrier of stage 0
    u32 a, b;  // descriptors of its rows and of the weights in stage 0
    u32 stage = 0;
    u32 phase = 0;

    __device__ void wait() const { ptx::mbarrier_wait(full + 8 * stage, phase); }
    __device__ void next() {
      if (++stage == c.stages) {
        stage = 0;
        phase ^= 1;
      }
    }
  };
};

}  // namespace fathom
