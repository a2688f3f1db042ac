// out[m, n] = tokens[m, k] * weights[n, k]^T for many tokens, FP8 with scales or bf16.
//
// Resident blocks walk over output tiles. One warp feeds a ring of k blocks through the copy engine, shared with a
// neighbour of the cluster where one operand is the same; for FP8 another warp feeds a ring of scales straight from
// their row-major home. One or two warpgroups multiply, and promote every FP8 block of 128 to f32 with its scales:
//
//   sum = fma(block_sum, token_scale * weight_scale, sum), blocks in ascending order
//
// so a value depends on k alone, not on m, the tile or the cluster.
#pragma once
#include "layout/gemm.cuh"
#include "ptx/barrier.cuh"
#include "ptx/memory.cuh"
#include "ptx/tma.cuh"
#include "sm90/gemm_activation.cuh"
#include "sm90/gemm_handover.cuh"
#include "sm90/gemm_promotion.cuh"
#include "sm90/gemm_ring.cuh"
#include "sm90/gemm_scales.cuh"
#include "sm90/gemm_store.cuh"
#include "sm90/gemm_sums.cuh"

namespace fathom {

/// A dense product has no walk of its own: every role counts its tiles.
struct NoWalk {
  using Args = GemmArgs;
  static __device__ const GemmArgs& gemm(const GemmArgs& args) { return args; }
  static __device__ const TensorMap& half_weights(const GemmArgs& args) { return args.weights; }
};

template <GemmPrefillConfig c, class Walk>
struct GemmPrefill {
  static constexpr int kCluster = GemmRing<c>::kCluster;
  static constexpr int kStepElements = c.fp8 ? 128 : 64;
  using Stage = ScaleStage<c>;
  using Reader = typename GemmRing<c>::Reader;
  // A tile of columns touches at most two rows of weight scales.
  static_assert(!c.fp8 || c.block_n <= 128 || c.block_n == 144 || c.block_n == 192 || c.block_n == 256);
  static_assert(c.parts() <= 2);
  static_assert(!c.thirds() || !c.stores_whole());
  static_assert(!c.row_scales || (c.fp8 && c.subs() == 1));
  static_assert(kCluster <= 2);

  const typename Walk::Args& all;
  const GemmArgs& args;
  const GemmRing<c> ring;
  int rank;
  int tiles_m, tiles_n;  // of a dense product, in tiles of the cluster
  int walkers;           // clusters that walk

  __device__ explicit GemmPrefill(const typename Walk::Args& arguments, u8* shared)
      : all(arguments), args(Walk::gemm(arguments)), ring(shared) {
    rank = kCluster > 1 ? static_cast<int>(ptx::cluster_rank()) : 0;
    tiles_m = (args.m + c.block_m * c.cluster_m - 1) / (c.block_m * c.cluster_m);
    tiles_n = (args.n + c.block_n * c.cluster_n - 1) / (c.block_n * c.cluster_n);
    walkers = static_cast<int>(gridDim.x) / kCluster;
  }

  /// Tiles in bands of eight along the tokens, so that what runs at one time shares operands in L2.
  __device__ GemmTile tile(int index) const {
    constexpr int kBand = c.cluster_m > 1 ? 4 : 8;
    const int band = index / (kBand * tiles_n);
    const int in_band = index % (kBand * tiles_n);
    const int height = min(kBand, tiles_m - band * kBand);
    const int m = band * kBand + in_band % height;
    const int n = in_band / height;
    return {(m * c.cluster_m + (c.cluster_m > 1 ? rank : 0)) * c.block_m,
            (n * c.cluster_n + (c.cluster_n > 1 ? rank : 0)) * c.block_n};
  }
  /// body(tile, its blocks of k) for all tiles of this block, in the loader's warp and that of the scales.
  template <class Body>
  __device__ void for_each_tile(Body body) const {
    if constexpr (c.grouped) {
      typename Walk::Told told(ring);
      for (GemmTile t; told.next(t);) {
        told.release();
        body(t, 0, args.blocks);
      }
    } else if constexpr (c.shares) {
      const GemmSharing<c> sharing{args, ring};
      for (int step = 0; step < sharing.steps(); ++step) {
        const GemmPart part = sharing.part(step);
        body(tile(part.tile), part.first, part.last);
        if (step == args.share.round && sharing.set() < 0) {  // nothing is shared
          if (!sharing.gives()) break;
          body(tile(part.tile), part.last, args.blocks);
        }
      }
    } else {
      for (int index = static_cast<int>(blockIdx.x) / kCluster; index < tiles_m * tiles_n; index += walkers) {
        body(tile(index), 0, args.blocks);
      }
    }
  }
  /// The same in a warpgroup, which may read a tile of a grouped product again.
  template <class Body>
  __device__ void for_each_tile(const Reader& at, Body body) const {
    if constexpr (c.grouped) {
      typename Walk::Told told(ring);
      for (GemmTile t; told.next(t); told.release()) body(t, told);
    } else {
      for (int index = static_cast<int>(blockIdx.x) / kCluster; index < tiles_m * tiles_n; index += walkers) {
        body(tile(index), index);
      }
    }
  }

  /// Rows [row, row + kRows) of an operand. A shared one is fetched in halves, one by each block of the cluster, for
  /// both.
  template <bool kShared, int kRows>
  __device__ void load(u32 to, const TensorMap& map, int stage, int k, int row, int plane, u64 policy) const {
    constexpr int kHalf = kRows / 2;
    const u32 half = to + rank * kHalf * 128;
    if constexpr (kShared && c.grouped) {
      ptx::cp_async_bulk_tensor_3d_multicast(half, &map, ring.full(stage), k, row + rank * kHalf, plane, 3,
                                             ptx::kEvictNormal);
    } else if constexpr (c.grouped) {
      ptx::cp_async_bulk_tensor_3d(to, &map, ring.full(stage), k, row, plane, policy);
    } else if constexpr (kShared) {
      ptx::cp_async_bulk_tensor_2d_multicast(half, &map, ring.full(stage), k, row + rank * kHalf, 3, policy);
    } else {
      ptx::cp_async_bulk_tensor_2d(to, &map, ring.full(stage), k, row, policy);
    }
  }

  /// The first slabs of a tile's tokens, each fetched by one block of the cluster for all.
  __device__ void load_slabs(u32 to, int stage, int k, const GemmTile& t, int slabs) const {
    constexpr int kEach = c.block_m / 64 / kCluster;
    const int first = rank * kEach;
#pragma unroll
    for (int slab = first; slab < first + kEach; ++slab) {
      if (slab >= slabs) break;
      const int row = t.token0 + 64 * slab;
      if constexpr (kCluster > 1) {
        ptx::cp_async_bulk_tensor_3d_multicast(to + slab * 64 * 128, &args.tokens, ring.full(stage), k, row, t.plane, 3,
                                               ptx::kEvictNormal);
      } else {
        ptx::cp_async_bulk_tensor_3d(to + slab * 64 * 128, &args.tokens, ring.full(stage), k, row, t.plane,
                                     ptx::kEvictNormal);
      }
    }
  }

  /// One thread.
  __device__ void produce() const {
    u64 tokens = ptx::kEvictNormal;  // of what is called so here
    u64 weights = ptx::kEvictNormal;
    if constexpr (c.swapped) {
      if (all.weights_leave) tokens = ptx::kEvictFirst;
    } else if constexpr (!c.grouped) {
      if (args.weights_leave) weights = ptx::kEvictFirst;
    }
    int stage = 0;
    u32 phase = 1;  // of a barrier on which nothing has been waited for, the phase before its first counts as completed
    const auto next = [&] {
      if (++stage == c.stages) {
        stage = 0;
        phase ^= 1;
      }
    };
    for_each_tile([&](const GemmTile& t, int first, int last) {
#pragma unroll 1
      for (int block = first; block < last; ++block, next()) {
        ptx::mbarrier_wait(ring.empty(stage), phase);
        const int slabs = c.thirds() ? min((t.end - t.token0 + 63) / 64, c.block_m / 64) : c.block_m / 64;
        const bool half = c.halves() && t.half;
        ptx::mbarrier_arrive_expect_tx(ring.full(stage), 128 * (64 * slabs + (half ? c.block_n / 2 : c.block_n)));
        const int k = block * kStepElements;
        if constexpr (c.thirds()) {
          load_slabs(ring.token_tile(stage), stage, k, t, slabs);
        } else {
          load<(c.cluster_n > 1), c.block_m>(ring.token_tile(stage), args.tokens, stage, k, t.token0, t.plane, tokens);
        }
        const u32 to = ring.weight_tile(stage);
        if constexpr (c.activates) {
          load<false, 128>(to, args.weights, stage, k, t.row0 / 2, t.group, weights);
          load<false, 128>(to + 128 * 128, args.weights, stage, k, (args.n + t.row0) / 2, t.group, weights);
        } else {
          const TensorMap& rows = half ? Walk::half_weights(all) : args.weights;
          load<(c.cluster_m > 1), c.block_n>(to, rows, stage, k, t.row0, t.group, weights);
        }
      }
    });
    if constexpr (kCluster > 1) {  // a neighbour may still arrive at these barriers
      for (int i = 0; i < c.stages; ++i, next()) ptx::mbarrier_wait(ring.empty(stage), phase);
    }
  }

  /// The scales of four k blocks for kRows rows from `row` on, of `rows` in all. `background`: by copies that a later
  /// arrival waits for.
  template <int kRows>
  __device__ void fetch_scales(u32 to, const RowScales& from, int row, int rows, int block, bool background) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    if (background) {
      const float* first = static_cast<const float*>(from.data) + block;
#pragma unroll 4
      for (int i = lane; i < kRows; i += 32) {
        const bool live = row + i < rows;
        ptx::cp_async_16(to + 16 * i, first + (live ? (row + i) * from.row : 0), live);
      }
    } else {
#pragma unroll 2
      for (int i = lane; i < kRows; i += 32) {
        const float4 zero = {0, 0, 0, 0};
        ptx::st_shared_4(to + 16 * i, row + i < rows ? four_scales(from, args.blocks, row + i, block) : zero);
      }
    }
  }

  /// Those of a tile's group: of tokens one each, of weights one for 128.
  __device__ void fetch_group_scales(u32 to, const GemmTile& t, int block, bool background) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    RowScales tokens = token_row_scales(args);
    tokens.data = static_cast<const u32*>(tokens.data) + Walk::token_scales_of(all, t);
    const int token0 = c.swapped ? t.row0 : t.token0;
    const int weight0 = c.swapped ? t.token0 : t.row0;
    fetch_scales<(c.swapped ? c.block_n : c.block_m)>(to + (c.swapped ? 4 * Stage::kTokens : 0), tokens, token0, t.end,
                                                      block, background);
    if (lane >= (c.swapped ? 1 : 2) * c.scale_blocks) return;
    const int second = lane / c.scale_blocks;  // of two rows
    const int row = c.activates ? (weight0 + second * args.n) / 256 : weight0 / 128 + second;
    const int at = block + lane % c.scale_blocks;
    const bool live = row * 128 < args.n && at < args.blocks;
    const i64 place = Walk::weight_scales_of(all, t) + row * args.weight_scale_row + at * args.weight_scale_block;
    ptx::cp_async_4(to + 4 * (c.swapped ? lane : Stage::kTokens + lane), args.weight_scale + (live ? place : 0), live);
  }
  __device__ bool planes_in_fours() const {
    if constexpr (c.grouped) return Walk::planes_in_fours(all);
    return true;
  }
  /// One warp: the scales of four k blocks at a time, in the background where the caller's layout allows.
  __device__ void produce_scales() const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const bool background = in_fours(token_row_scales(args), args.blocks) && planes_in_fours() &&
                            (!c.row_scales || c.swapped || in_fours(weight_row_scales(args), args.blocks));
    const u32 base = ptx::shared_address(ring.scales);
    int step = 0;
    for_each_tile([&](const GemmTile& t, int first, int last) {
      const int row = t.row0 / 128 + lane / c.scale_blocks % 2;
      for (int block = first; block < last; block += c.scale_blocks, ++step) {
        const int stage = step % c.scale_stages;
        if (step >= c.scale_stages) ptx::mbarrier_wait(ring.scale_empty(stage), (step / c.scale_stages - 1) & 1);
        const u32 to = base + stage * (Stage::kFloats * 4);
        if constexpr (c.grouped) {
          fetch_group_scales(to, t, block, background);
        } else {
          fetch_scales<c.block_m>(to, token_row_scales(args), t.token0, args.m, block, background);
          if constexpr (c.row_scales) {
            fetch_scales<c.block_n>(to + 4 * Stage::kTokens, weight_row_scales(args), t.row0, args.n, block,
                                    background);
          } else if (lane < 2 * c.scale_blocks) {
            const int at = block + lane % c.scale_blocks;
            const bool live = row * 128 < args.n && at < args.blocks;
            ptx::cp_async_4(to + 4 * (Stage::kTokens + lane),
                            args.weight_scale + (live ? row * args.weight_scale_row + at * args.weight_scale_block : 0),
                            live);
          }
        }
        if (background) {
          ptx::cp_async_mbarrier_arrive(ring.scale_full(stage));
        } else {
          ptx::cp_async_wait_all();  // then an arrival that orders the stores as well
          ptx::mbarrier_arrive(ring.scale_full(stage));
        }
      }
    });
  }

  /// Whether three of a tile's four slabs of 64 rows count: the warpgroups share the third.
  static __device__ bool in_thirds(const GemmTile& t) { return c.thirds() && t.idle == 0 && (t.end - t.token0 + 63) / 64 == 3; }

  __device__ void consume() const {
    const u32 thread = threadIdx.x;
    const u32 group = __shfl_sync(0xffffffff, thread / 128, 0);
    Reader at{.full = ptx::pinned(ring.full(0)),
              .a = ptx::pinned(ptx::wgmma_descriptor_low(ring.token_tile(0) + group * c.subs() * 64 * 128)),
              .b = ptx::pinned(ptx::wgmma_descriptor_low(ring.weight_tile(0)))};
    const u32 row = group * c.subs() * 64 + thread / 32 % 4 * 16 + thread % 32 / 4;
    const u32 scales = ptx::shared_address(ring.scales);
    BlockScales<c> scale{.row = ptx::pinned(scales + (c.swapped ? 0 : row * c.scale_blocks * 4)),
                         .weight = BlockScales<c>::weight_address(scales),
                         .full = ptx::pinned(ring.scale_full(0)),
                         .empty = ptx::pinned(ring.scale_empty(0))};
    if constexpr (c.shares) {
      consume_parts(at, scale, group);
    } else {
      consume_tiles(at, scale, group);
    }
    ptx::cp_async_bulk_wait_group_read();
  }
  using Sums = float[c.subs()][c.block_n / 2];
  static __device__ void clear(Sums& sum) {
    for (auto& sub : sum) {
      for (float& value : sub) value = 0;
    }
  }
  __device__ void consume_tiles(Reader& at, BlockScales<c>& scale, u32 group) const {
    for_each_tile(at, [&](GemmTile t, auto& told) {
      if constexpr (c.grouped) {
        if (t.token0 + static_cast<int>(group) * c.store_rows() >= (c.swapped ? args.n : t.end) || t.idle >> group & 1) {
          skip(at, scale, group);
          return;
        }
      }
      Sums sum;
      clear(sum);
      const GemmSums<c> sums{ring, args.blocks};
      if (in_thirds(t)) {
        if constexpr (c.thirds()) sums.add_third(sum, group, at, scale);
      } else {
        const int live = t.end - t.token0 - static_cast<int>(group) * c.store_rows();
        sums.add(sum, t.row0, c.grouped && (c.subs() == 2 ? live <= 64 : t.half), at, scale);
      }
      if constexpr (c.grouped) {
        told.again(t);
        const int columns = t.half ? c.block_n / 2 : c.block_n;
        const GemmStore<c> to{args, ring.store_tile, Walk::place(all, t, in_thirds(t) ? 3 : 1 << group)};
        if constexpr (c.swapped) {
          to.store_swapped(sum[0], t.token0 + group * 64, t.row0, group);
        } else if constexpr (c.activates) {
          GemmActivation<c>{all, ring.store_tile, to.place_in}.store(sum[0], t.token0 + group * 64, t.row0 / 2);
        } else if constexpr (!c.stores_whole()) {
          const bool thirds = in_thirds(t);
#pragma unroll
          for (int s = 0; s < c.subs(); ++s) {
            const bool third = thirds && s == 1;
            const u32 row = third ? 128 : group * (thirds ? 64 : c.store_rows()) + 64 * s;
            to.store_part(sum[s], t.token0 + row, t.row0 + (third ? group * 64 : 0), third ? 64 : columns);
          }
        } else {
          to.store(sum, t.token0 + group * c.store_rows(), t.row0, group, columns);
        }
      } else {
        GemmStore<c>{args, ring.store_tile, {.end = args.m}}.store(sum, t.token0 + group * c.store_rows(), t.row0, group);
      }
    });
  }
  /// Where the last round is shared out. The loops depend on arguments and the block's number alone, so that the compiler
  /// sees that a warp does the same: addresses are in uniform registers then. What is known later chooses between them.
  __device__ void consume_parts(Reader& at, BlockScales<c>& scale, u32 group) const {
    const GemmSharing<c> sharing{args, ring};
    Sums sum;
    const auto add = [&](const GemmPart& part) {
      GemmSums<c>{ring, part.last - part.first}.add(sum, tile(part.tile).row0, false, at, scale);
    };
    const auto store = [&](const GemmPart& part) {
      const GemmTile t = tile(part.tile);
      GemmStore<c>{args, ring.store_tile, {.end = args.m}}.store(sum, t.token0 + group * c.store_rows(), t.row0, group);
    };
    int step = 0;
    for (; step <= args.share.round; ++step) {
      const GemmPart part = sharing.part(step);
      clear(sum);
      add(part);
      if (part.last == args.blocks) store(part);
    }
    const int set = sharing.set();
    if (set >= 0) {
      if (sharing.gives()) sharing.hand_on(set, sharing.part(args.share.round), sum);
      for (; step < sharing.steps(); ++step) {
        const GemmPart part = sharing.part(step);
        if (part.first > 0) {
          sharing.take(set, part, sum);
        } else {
          clear(sum);
        }
        add(part);
        store(part);
      }
    } else if (sharing.gives()) {  // the rest of the tile, then the last one
      GemmPart part = sharing.part(args.share.round);
      part = {part.tile, part.last, args.blocks};
      for (int i = 0; i < 2; ++i, part = sharing.part(step)) {
        if (i == 1) clear(sum);
        add(part);
        store(part);
      }
    }
    sharing.leave(set);
  }

  /// A tile none of whose rows are this warpgroup's: it only keeps step.
  template <class Scale>
  __device__ void skip(Reader& at, Scale& scale, u32 group) const {
#pragma unroll 1
    for (int block = 0; block < args.blocks; ++block) {
      at.wait();
      ptx::bar_sync(2 + group, 128);  // no warp is left a round behind
      ring.release(at.stage);
      at.next();
      if (c.fp8 && (block % c.scale_blocks == c.scale_blocks - 1 || block + 1 == args.blocks)) {
        scale.wait();
        scale.next_stage();
      }
    }
  }

  __device__ void run() const {
    const int warp = static_cast<int>(threadIdx.x) / 32;
    constexpr int kLoader = 4 * c.groups();
    if constexpr (c.grouped) {
      if (warp == kLoader + 2) Walk::ask_early(all);
    }
    if (warp == kLoader && threadIdx.x % 32 == 0) {
      ptx::prefetch_tensormap(&args.tokens);
      ptx::prefetch_tensormap(&args.weights);
      for (int stage = 0; stage < c.stages; ++stage) {
        ptx::mbarrier_init(ring.full(stage), 1);
        ptx::mbarrier_init(ring.empty(stage), c.groups() * kCluster);
      }
      for (int stage = 0; stage < c.scale_stages; ++stage) {
        ptx::mbarrier_init(ring.scale_full(stage), 32);
        ptx::mbarrier_init(ring.scale_empty(stage), 4 * c.groups());
      }
      if constexpr (c.grouped) {
        for (int place = 0; place < c.tiles_ahead; ++place) {
          ptx::mbarrier_init(ring.tile_full(place), 1);
          ptx::mbarrier_init(ring.tile_empty(place), Walk::kHearers);
        }
        for (int place = 0; place < c.numbers_ahead; ++place) {
          ptx::mbarrier_init(ring.number_full(place), 1);
          ptx::mbarrier_init(ring.number_empty(place), 1);
        }
      }
      if constexpr (c.shares) ptx::mbarrier_init(ring.share_known(), 1);
      ptx::fence_mbarrier_init();
    }
    if constexpr (kCluster > 1) {
      __syncwarp();
      ptx::cluster_arrive_relaxed();
      ptx::cluster_wait();
    } else {
      __syncthreads();
    }
    ptx::griddepcontrol_launch_dependents();
    ptx::griddepcontrol_wait();
    if (warp >= kLoader) {
      ptx::setmaxnreg_dec<c.grouped ? 72 : 56>();  // who walks over groups holds more
      if (warp == kLoader) {
        // 128 x 256 tiles and swapped ones are up to 2 % faster with copies further apart; 64 x 256 was timed so alone.
        if (c.block_n == 256 || c.swapped ? threadIdx.x % 32 == 0 : ptx::elect_one()) produce();
      } else if (c.fp8 && warp == kLoader + 1) {
        produce_scales();
      } else if constexpr (c.grouped) {
        if (warp == kLoader + 2) Walk::run(all, ring, rank);
      } else if constexpr (c.shares) {
        if (warp == kLoader + 2 && threadIdx.x % 32 == 0) GemmSharing<c>{args, ring}.find_set();
      }
    } else {
      ptx::setmaxnreg_inc<c.groups() == 1 ? 248 : c.grouped ? 216 : 224>();
      consume();
    }
    if constexpr (kCluster > 1) {
      __syncwarp();
      ptx::cluster_arrive_relaxed();
      ptx::cluster_wait();
    }
  }
};

template <GemmPrefillConfig c>
__device__ __forceinline__ void gemm_prefill(const GemmArgs& args) {
  extern __shared__ unsigned char shared[];
  GemmPrefill<c, NoWalk>(args, shared).run();
}

}  // namespace fathom
