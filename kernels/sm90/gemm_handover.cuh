// How a dense product shares out its last round of tiles over all clusters, with the bits of one that does not.
//
// A cluster with a tile of the last round, a giver, sums the blocks of k of its tile of the round before up to the cut and
// leaves the sums in memory, the L2 cache; a cluster without one, a taker, goes on from them in the same order. A taker
// waits for clusters of lower number alone, after all tiles of its own: those have started before it. See ADR 0065.
#pragma once
#include "layout/gemm.cuh"
#include "ptx/barrier.cuh"
#include "ptx/memory.cuh"
#include "sm90/gemm_ring.cuh"

namespace fathom {

/// The memory of the launches of a kernel that share. As many may at a time as there are sets; the others do everything
/// themselves. All is zero when no launch is under way.
template <int kTile, int kThreads>
struct GemmHandovers {
  static constexpr int kSets = 2;
  static constexpr int kBlocks = GemmPrefillConfig::most_sharing - 1;
  struct Launch {
    u32 set;   // 1 + its set, or none is kSets + 1; 0: not yet known
    u32 left;  // blocks that are done
  };
  u32 taken[kSets];
  Launch launches[kTileQueues + kRecordedTileQueues];
  u32 handed[kSets][kBlocks][kThreads / 32];  // by warp
  alignas(128) float sums[kSets][kBlocks][kTile];
};
template <int kTile, int kThreads>
__device__ GemmHandovers<kTile, kThreads> gemm_handovers;

/// A tile, or some of its blocks of k: [first, last).
struct GemmPart {
  int tile;
  int first;
  int last;
};

template <GemmPrefillConfig c>
struct GemmSharing {
  static constexpr int kThreads = 128 * c.groups();
  static constexpr int kCluster = GemmRing<c>::kCluster;
  using Handovers = GemmHandovers<c.block_m * c.block_n, kThreads>;
  static constexpr int kSums = c.subs() * c.block_n / 2;
  using Sums = float[c.subs()][c.block_n / 2];
  static_assert(c.fp8 && !c.row_scales && !c.grouped);

  const GemmArgs& args;
  const GemmRing<c>& ring;

  static __device__ Handovers& memory() { return gemm_handovers<c.block_m * c.block_n, kThreads>; }
  static __device__ int cluster() { return static_cast<int>(blockIdx.x) / kCluster; }
  static __device__ int clusters() { return static_cast<int>(gridDim.x) / kCluster; }
  __device__ bool gives() const { return cluster() < args.share.givers; }

  /// The launch's set, or -1 if it has none: the same in all of its blocks.
  __device__ int set() const {
    ptx::mbarrier_wait(ring.share_known(), 0);
    return __float_as_int(ptx::ld_shared(ring.share()));
  }
  /// One thread finds it and tells the others.
  __device__ void find_set() const {
    int found = -1;
    if (args.share.queue >= 0) {
      auto& launch = memory().launches[args.share.queue];
      if (blockIdx.x == 0) {
        int free = 0;
        while (free < Handovers::kSets && atomicOr(memory().taken + free, 1u) != 0) ++free;
        __threadfence();
        ptx::st_release(&launch.set, 1 + free);
      }
      u32 set;
      while ((set = ptx::ld_acquire(&launch.set)) == 0) ptx::pause();
      if (set <= Handovers::kSets) found = static_cast<int>(set) - 1;
    }
    ptx::st_shared(ring.share(), __int_as_float(found));
    ptx::mbarrier_arrive(ring.share_known());
  }
  /// All threads that multiply, when they are done. The last block leaves everything as it was.
  __device__ void leave(int set) const {
    if (args.share.queue < 0) return;
    ptx::bar_sync(1, kThreads);
    if (threadIdx.x != 0) return;
    auto& launch = memory().launches[args.share.queue];
    __threadfence();
    if (atomicAdd(&launch.left, 1u) + 1 != gridDim.x) return;
    __threadfence();
    launch = {0, 0};
    if (set >= 0) ptx::st_release(memory().taken + set, 0);
  }

  /// Steps of this cluster: all of its tiles but, of a giver, the end of one; then a taker's share of those ends.
  __device__ int steps() const {
    const int takers = clusters() - args.share.givers;
    if (gives()) return args.share.round + 2;
    return args.share.round + 1 + (args.share.givers - (cluster() - args.share.givers) + takers - 1) / takers;
  }
  __device__ GemmPart part(int step) const {
    const GemmShare& share = args.share;
    const int of_round = cluster() + step * clusters();
    if (gives()) return {of_round, 0, step == share.round ? share.cut : args.blocks};
    if (step <= share.round) return {of_round, 0, args.blocks};
    const int giver = cluster() - share.givers + (step - share.round - 1) * (clusters() - share.givers);
    return {giver + share.round * clusters(), share.cut, args.blocks};
  }

  /// Where the sums of a tile that was cut are handed over: those of a warp when its flag says so.
  struct Place {
    float* sums;  // of this thread, fours 4 * kThreads apart
    u32* handed;
  };
  __device__ Place place(int set, const GemmPart& part) const {
    const int thread = static_cast<int>(ptx::pinned(threadIdx.x));  // or addresses are kept while blocks are summed
    const int rank = kCluster > 1 ? static_cast<int>(ptx::cluster_rank()) : 0;
    const int block = (part.tile - args.share.round * clusters()) * kCluster + rank;
    return {memory().sums[set][block] + 4 * thread, &memory().handed[set][block][thread / 32]};
  }
  // Four that are neighbours lie in registers that are. They begin with the second sum: so every sum is in the other
  // bank than its product, which begins with the first, and the multiply-adds of the main loop take a cycle each.
  template <class Value>
  static __device__ Value& of(Value (&sum)[c.subs()][c.block_n / 2], int i) {
    return sum[(i + 1) % kSums / (c.block_n / 2)][(i + 1) % kSums % (c.block_n / 2)];
  }
  __device__ void hand_on(int set, const GemmPart& part, const Sums& sum) const {
    const Place to = place(set, part);
#pragma unroll
    for (int i = 0; i < kSums; i += 4) {
      ptx::st_relaxed_4(to.sums + i * kThreads, {of(sum, i), of(sum, i + 1), of(sum, i + 2), of(sum, i + 3)});
    }
    __syncwarp();
    if (threadIdx.x % 32 == 0) ptx::st_release(to.handed, 1);
  }
  __device__ void take(int set, const GemmPart& part, Sums& sum) const {
    const Place from = place(set, part);
    while (ptx::ld_acquire(from.handed) == 0) ptx::pause();
#pragma unroll
    for (int i = 0; i < kSums; i += 4) {
      const float4 v = ptx::ld_relaxed_4(from.sums + i * kThreads);
      of(sum, i) = v.x;
      of(sum, i + 1) = v.y;
      of(sum, i + 2) = v.z;
      of(sum, i + 3) = v.w;
    }
    __syncwarp();
    if (threadIdx.x % 32 == 0) *from.handed = 0;
  }
};

}  // namespace fathom
