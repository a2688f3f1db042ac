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
#include "ptx/wgmma.cuh"
#include "sm90/gemm_promotion.cuh"
#include "sm90/gemm_scales.cuh"
#include "sm90/gemm_store.cuh"

namespace fathom {

/// A tile of out, and whose it is. `end`: the first row that is not.
struct GemmTile {
  int token0, row0;
  int end = 0;
  int group = 0;  // of weights
  int plane = 0;  // of tokens and result
  bool by_id = false;
};

/// A dense product has no walk of its own: every role counts its tiles.
struct NoWalk {
  using Args = GemmArgs;
  static __device__ const GemmArgs& gemm(const GemmArgs& args) { return args; }
};

template <GemmPrefillConfig c, class Walk>
struct GemmPrefill {
  static constexpr int kTokenBytes = c.block_m * 128;
  static constexpr int kWeightBytes = c.block_n * 128;
  static constexpr int kCluster = c.cluster_m * c.cluster_n;
  static constexpr int kStepElements = c.fp8 ? 128 : 64;
  using Stage = ScaleStage<c>;
  // A tile of columns touches at most two rows of weight scales.
  static_assert(!c.fp8 || c.block_n <= 128 || c.block_n == 144 || c.block_n == 192);
  static_assert(!c.row_scales || (c.fp8 && c.subs() == 1));
  static_assert(kCluster <= 2);

  const typename Walk::Args& all;
  const GemmArgs& args;
  u32 store_tile;
  u32 ring;
  u32 barriers;  // full[stages], empty[stages], scale_full[scale_stages], scale_empty[scale_stages]
  u32 slots;  // shared address
  float* scales;
  int rank;
  int tiles_m, tiles_n;  // of a dense product, in tiles of the cluster
  int walkers;           // clusters that walk

  __device__ explicit GemmPrefill(const typename Walk::Args& arguments, u8* shared)
      : all(arguments), args(Walk::gemm(arguments)) {
    const u32 base = ptx::shared_address(shared);
    const u32 aligned = (base + 1023) & ~1023u;
    store_tile = aligned;
    ring = aligned + c.store_bytes();
    const u32 ring_end = ring + c.stages * c.stage_bytes();
    scales = reinterpret_cast<float*>(shared + (ring_end - base));
    barriers = ring_end + c.scale_bytes();
    rank = kCluster > 1 ? static_cast<int>(ptx::cluster_rank()) : 0;
    slots = barriers + 16 * (c.stages + c.scale_stages);
    tiles_m = (args.m + c.block_m * c.cluster_m - 1) / (c.block_m * c.cluster_m);
    tiles_n = (args.n + c.block_n * c.cluster_n - 1) / (c.block_n * c.cluster_n);
    walkers = static_cast<int>(gridDim.x) / kCluster;
  }

  __device__ u32 full(int stage) const { return barriers + 8 * stage; }
  __device__ u32 empty(int stage) const { return barriers + 8 * (c.stages + stage); }
  __device__ u32 scale_full(int stage) const { return barriers + 8 * (2 * c.stages + stage); }
  __device__ u32 scale_empty(int stage) const { return barriers + 8 * (2 * c.stages + c.scale_stages + stage); }
  __device__ u32 token_tile(int stage) const { return ring + stage * c.stage_bytes(); }
  __device__ u32 weight_tile(int stage) const { return ring + stage * c.stage_bytes() + kTokenBytes; }

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
  /// body(tile) for all tiles of this block, in the loader's warp and that of the scales.
  template <class Body>
  __device__ void for_each_tile(Body body) const {
    if constexpr (c.grouped) {
      Walk walk(all, rank);
      GemmTile t;
      while (walk.next(t)) body(t);
    } else {
      for (int index = static_cast<int>(blockIdx.x) / kCluster; index < tiles_m * tiles_n; index += walkers) body(tile(index));
    }
  }
  /// The same in a warpgroup: of a grouped product it is told.
  template <class Body>
  __device__ void for_each_tile(const Reader& at, Body body) const {
    if constexpr (c.grouped) {
      typename Walk::Told told(*this);
      GemmTile t;
      while (told.next(t, at)) body(t, told);
    } else {
      for (int index = static_cast<int>(blockIdx.x) / kCluster; index < tiles_m * tiles_n; index += walkers) {
        body(tile(index), index);
      }
    }
  }

  /// Rows [row, row + kRows) of an operand. A shared one is fetched in halves, one by each block of the cluster, for
  /// both.
  template <bool kShared, int kRows>
  __device__ void load(u32 to, const TensorMap& map, int stage, int k, int row, int plane) const {
    constexpr int kHalf = kRows / 2;
    const u64 policy = c.swapped && kRows == c.block_m ? ptx::kEvictFirst : ptx::kEvictNormal;
    const u32 half = to + rank * kHalf * 128;
    if constexpr (kShared && c.grouped) {
      ptx::cp_async_bulk_tensor_3d_multicast(half, &map, full(stage), k, row + rank * kHalf, plane, 3, ptx::kEvictNormal);
    } else if constexpr (c.grouped) {
      ptx::cp_async_bulk_tensor_3d(to, &map, full(stage), k, row, plane, policy);
    } else if constexpr (kShared) {
      ptx::cp_async_bulk_tensor_2d_multicast(half, &map, full(stage), k, row + rank * kHalf, 3, ptx::kEvictNormal);
    } else {
      ptx::cp_async_bulk_tensor_2d(to, &map, full(stage), k, row, ptx::kEvictNormal);
    }
  }

  /// One thread; of a grouped product the whole warp, which finds the tiles together and tells the warpgroups.
  __device__ void produce() const {
    const bool issues = !c.grouped || threadIdx.x % 32 == 0;
    int step = 0;
    int count = 0;
    for_each_tile([&](const GemmTile& t) {
      for (int block = 0; issues && block < args.blocks; ++block, ++step) {
        const int stage = step % c.stages;
        if (step >= c.stages) ptx::mbarrier_wait(empty(stage), (step / c.stages - 1) & 1);
        if constexpr (c.grouped) {
          if (block == 0) Walk::tell(slots, count++, t);
        }
        ptx::mbarrier_arrive_expect_tx(full(stage), kTokenBytes + kWeightBytes);
        const int k = block * kStepElements;
        load<(c.cluster_n > 1), c.block_m>(token_tile(stage), args.tokens, stage, k, t.token0, t.plane);
        load<(c.cluster_m > 1), c.block_n>(weight_tile(stage), args.weights, stage, k, t.row0, t.group);
      }
      if constexpr (c.grouped) __syncwarp();
    });
    if (!issues) return;
    if constexpr (c.grouped) {  // the end is a step without bytes, which nobody releases
      const int stage = step % c.stages;
      if (step >= c.stages) ptx::mbarrier_wait(empty(stage), (step / c.stages - 1) & 1);
      Walk::tell(slots, count, {.token0 = -1});
      ptx::mbarrier_arrive(full(stage));
      ++step;
    }
    if constexpr (kCluster > 1) {  // a neighbour may still arrive at these barriers
      for (int i = c.grouped; i < c.stages; ++i, ++step) {
        if (step >= c.stages) ptx::mbarrier_wait(empty(step % c.stages), (step / c.stages - 1) & 1);
      }
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
    const int row = weight0 / 128 + lane / c.scale_blocks;
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
    const u32 base = ptx::shared_address(scales);
    int step = 0;
    for_each_tile([&](const GemmTile& t) {
      const int row = t.row0 / 128 + lane / c.scale_blocks % 2;
      for (int block = 0; block < args.blocks; block += c.scale_blocks, ++step) {
        const int stage = step % c.scale_stages;
        if (step >= c.scale_stages) ptx::mbarrier_wait(scale_empty(stage), (step / c.scale_stages - 1) & 1);
        const u32 to = base + stage * (Stage::kFloats * 4);
        if constexpr (c.grouped) {
          fetch_group_scales(to, t, block, background);
        } else {
          fetch_scales<c.block_m>(to, token_row_scales(args), t.token0, args.m, block, background);
          if constexpr (c.row_scales) {
            fetch_scales<c.block_n>(to + 4 * Stage::kTokens, weight_row_scales(args), t.row0, args.n, block, background);
          } else if (lane < 2 * c.scale_blocks) {
            const int at = block + lane % c.scale_blocks;
            const bool live = row * 128 < args.n && at < args.blocks;
            ptx::cp_async_4(to + 4 * (Stage::kTokens + lane),
                            args.weight_scale + (live ? row * args.weight_scale_row + at * args.weight_scale_block : 0),
                            live);
          }
        }
        if (background) {
          ptx::cp_async_mbarrier_arrive(scale_full(stage));
        } else {
          ptx::cp_async_wait_all();  // then an arrival that orders the stores as well
          ptx::mbarrier_arrive(scale_full(stage));
        }
      }
    });
  }

  /// The ring stage has been read by this warpgroup: its slot may be filled again, here and at the neighbour's.
  __device__ void release(u32 stage) const {
    const u32 thread = threadIdx.x % 128;
    if constexpr (kCluster > 1) {
      if (thread < kCluster) ptx::mbarrier_arrive_cluster(empty(stage), thread);
    } else {
      if (thread == 0) ptx::mbarrier_arrive(empty(stage));
    }
  }

  static __device__ void multiply(float (&d)[c.block_n / 2], const Reader& at, int sub, int add) {
    const u32 a = at.a + at.stage * (c.stage_bytes() / 16) + sub * (64 * 128 / 16);
    const u32 b = at.b + at.stage * (c.stage_bytes() / 16);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      ptx::Wgmma<c.fp8, c.block_n>::multiply(d, ptx::wgmma_descriptor(a + 2 * k), ptx::wgmma_descriptor(b + 2 * k),
                                             k > 0 ? 1 : add);
    }
  }

  __device__ void consume() const {
    const u32 thread = threadIdx.x;
    const u32 group = __shfl_sync(0xffffffff, thread / 128, 0);
    Reader at{.full = ptx::pinned(full(0)),
              .a = ptx::pinned(ptx::wgmma_descriptor_low(token_tile(0) + group * c.subs() * 64 * 128)),
              .b = ptx::pinned(ptx::wgmma_descriptor_low(weight_tile(0)))};
    const u32 row = group * c.subs() * 64 + thread / 32 % 4 * 16 + thread % 32 / 4;
    BlockScales<c> scale{.row = ptx::pinned(ptx::shared_address(scales) + (c.swapped ? 0 : row * c.scale_blocks * 4)),
                      .weight = ptx::pinned(ptx::shared_address(scales) + Stage::kTokens * 4 +
                                            (c.row_scales ? thread % 4 * 2 * c.scale_blocks * 4 : 0)),
                      .full = ptx::pinned(scale_full(0)),
                      .empty = ptx::pinned(scale_empty(0))};
    for_each_tile(at, [&](GemmTile t, auto& told) {
      if constexpr (c.grouped) {
        if (t.token0 + static_cast<int>(group) * c.store_rows() >= (c.swapped ? args.n : t.end)) {
          skip(at, scale, group);
          return;
        }
      }
      float sum[c.subs()][c.block_n / 2];
      for (auto& sub : sum) {
        for (float& value : sub) value = 0;
      }
      if constexpr (c.fp8) {
        const int border = 128 - t.row0 % 128;
        if constexpr (c.row_scales) {
          sum_blocks_by_column(sum[0], at, scale);
        } else if constexpr (c.subs() == 1 && c.block_n <= 128) {
          sum_blocks_ahead(sum[0], border, at, scale);
        } else {
          sum_blocks(sum, border, at, scale);
        }
      } else {
        sum_plain(sum, at);
      }
      if constexpr (c.grouped) {
        told.again(t);
        const GemmStore<c> to{args, store_tile, Walk::place(all, t)};
        if constexpr (c.swapped) {
          to.store_swapped(sum[0], t.token0 + group * 64, t.row0, group);
        } else {
          to.store(sum, t.token0 + group * c.store_rows(), t.row0, group);
        }
      } else {
        GemmStore<c>{args, store_tile}.store(sum, t.token0 + group * c.store_rows(), t.row0, group);
      }
    });
    ptx::cp_async_bulk_wait_group_read();
  }

  /// A tile none of whose rows are this warpgroup's: it only keeps step.
  template <class Scale>
  __device__ void skip(Reader& at, Scale& scale, u32 group) const {
#pragma unroll 1
    for (int block = 0; block < args.blocks; ++block) {
      at.wait();
      ptx::bar_sync(2 + group, 128);  // no warp is left a round behind
      release(at.stage);
      at.next();
      if (c.fp8 && (block % c.scale_blocks == c.scale_blocks - 1 || block + 1 == args.blocks)) {
        scale.wait();
        scale.next_stage();
      }
    }
  }

  /// FP8 with two tiles of 64 tokens a warpgroup. While the tensor cores work on the last, the next block's scales are
  /// read and its arrival is awaited. The other warpgroup multiplies while this one promotes.
  __device__ void sum_blocks(float (&sum)[c.subs()][c.block_n / 2], int border, Reader& at, BlockScales<c>& scale) const {
    const u32 blocks = args.blocks;
    scale.wait();
    scale.read();
    at.wait();
    u32 before = 0;
    for (u32 block = 0; block < blocks; ++block) {
      Reader next = at;
#pragma unroll
      for (int s = 0; s < c.subs(); ++s) {
        float block_sum[c.block_n / 2];
        ptx::wgmma_fence();
        multiply(block_sum, at, s, 0);
        ptx::wgmma_commit_group();
        const Promotion<c> promotion(scale.token[s], scale.weights);
        if (s == 0 && block > 0) release(before);  // read before the products of this block began
        if (s == c.subs() - 1) {
          next.next();
          if (block + 1 == blocks || ++scale.part == c.scale_blocks) scale.next_stage();
          if (block + 1 < blocks) {
            if (scale.part == 0) scale.wait();
            scale.read();
            next.wait();
          }
        }
        ptx::wgmma_wait_group<0>();
        promotion.add(sum[s], block_sum, border);
      }
      before = at.stage;
      at = next;
    }
    release(before);
  }

  /// FP8 with one tile of 64 tokens a warpgroup and registers to spare: the next block multiplies while this one is
  /// promoted.
  __device__ void sum_blocks_ahead(float (&sum)[c.block_n / 2], int border, Reader& at, BlockScales<c>& scale) const {
    const u32 blocks = args.blocks;
    float even[c.block_n / 2];
    float odd[c.block_n / 2];
    scale.wait();
    at.wait();
    ptx::wgmma_fence();
    multiply(even, at, 0, 0);
    ptx::wgmma_commit_group();
    // Straight pairs: the compiler must see which products are under way at every point.
    for (u32 pair = 0; pair < (blocks - 1) / 2; ++pair) {
      step_ahead(sum, even, odd, border, at, scale);
      step_ahead(sum, odd, even, border, at, scale);
    }
    if (blocks % 2 == 0) {
      step_ahead(sum, even, odd, border, at, scale);
      last_step(sum, odd, border, at, scale);
    } else {
      last_step(sum, even, border, at, scale);
    }
  }
  __device__ void step_ahead(float (&sum)[c.block_n / 2], float (&current)[c.block_n / 2],
                             float (&following)[c.block_n / 2], int border, Reader& at, BlockScales<c>& scale) const {
    scale.read();
    const Promotion<c> promotion(scale.token[0], scale.weights);
    const u32 stage = at.stage;
    at.next();
    at.wait();
    ptx::wgmma_fence();
    multiply(following, at, 0, 0);
    ptx::wgmma_commit_group();
    if (++scale.part == c.scale_blocks) {
      scale.next_stage();
      scale.wait();
    }
    ptx::wgmma_wait_group<1>();
    release(stage);
    promotion.add(sum, current, border);
  }
  __device__ void last_step(float (&sum)[c.block_n / 2], float (&current)[c.block_n / 2], int border, Reader& at,
                            BlockScales<c>& scale) const {
    scale.read();
    const Promotion<c> promotion(scale.token[0], scale.weights);
    scale.next_stage();
    ptx::wgmma_wait_group<0>();
    release(at.stage);
    at.next();
    promotion.add(sum, current, border);
  }

  /// FP8 with scales for every column: the other warpgroup multiplies while this one promotes.
  __device__ void sum_blocks_by_column(float (&sum)[c.block_n / 2], Reader& at, BlockScales<c>& scale) const {
    const u32 blocks = args.blocks;
    for (u32 block = 0; block < blocks; ++block) {
      if (scale.part == 0) scale.wait();
      at.wait();
      float block_sum[c.block_n / 2];
      ptx::wgmma_fence();
      multiply(block_sum, at, 0, 0);
      ptx::wgmma_commit_group();
      scale.read();
      ptx::wgmma_wait_group<0>();
      release(at.stage);
      at.next();
      add_by_column<c>(sum, block_sum, scale.token[0], scale.weight + scale.place());
      if (++scale.part == c.scale_blocks || block + 1 == blocks) scale.next_stage();
    }
  }

  __device__ void sum_plain(float (&sum)[c.subs()][c.block_n / 2], Reader& at) const {
    u32 before = 0;
    for (int block = 0; block < args.blocks; ++block) {
      at.wait();
      ptx::wgmma_fence();
#pragma unroll
      for (int s = 0; s < c.subs(); ++s) multiply(sum[s], at, s, 1);
      ptx::wgmma_commit_group();
      // The products of the block before have been read; those of this one may still run.
      ptx::wgmma_wait_group<1>();
      if (block > 0) release(before);
      before = at.stage;
      at.next();
    }
    ptx::wgmma_wait_group<0>();
    release(before);
    for (auto& sub : sum) {
      for (float& value : sub) ptx::keep(value);
    }
  }

  __device__ void run() const {
    const int warp = static_cast<int>(threadIdx.x) / 32;
    constexpr int kLoader = 4 * c.groups();
    if (warp == kLoader && threadIdx.x % 32 == 0) {
      ptx::prefetch_tensormap(&args.tokens);
      ptx::prefetch_tensormap(&args.weights);
      for (int stage = 0; stage < c.stages; ++stage) {
        ptx::mbarrier_init(full(stage), 1);
        ptx::mbarrier_init(empty(stage), c.groups() * kCluster);
      }
      for (int stage = 0; stage < c.scale_stages; ++stage) {
        ptx::mbarrier_init(scale_full(stage), 32);
        ptx::mbarrier_init(scale_empty(stage), 4 * c.groups());
      }
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
        if (c.grouped || threadIdx.x % 32 == 0) produce();
      } else if (c.fp8 && warp == kLoader + 1) {
        produce_scales();
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
