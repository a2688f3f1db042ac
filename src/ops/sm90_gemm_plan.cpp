// Which kernel takes a product on Hopper.
#include <algorithm>
#include <span>

#include "layout/gemm_few.cuh"
#include "ops/sm90_gemm.hpp"

namespace fathom {
namespace {

Sm90GemmKernel decode_kernel(bool fp8, int tokens, int groups, int stage_blocks, int stages, int segments) {
  Sm90GemmKernel kernel{.kind = Sm90GemmKind::decode,
                        .fp8 = fp8,
                        .tile_m = tokens,
                        .tile_n = GemmDecodeConfig::rows,
                        .stages = stages,
                        .groups = groups,
                        .stage_blocks = stage_blocks,
                        .most_segments = 16,
                        .cluster_m = 1,
                        .cluster_n = 1,
                        .row_scales = 0,
                        .shares = 0,
                        .pairs = 0};
  // Where many sums change hands, how many is compiled; few have one kernel for all.
  if (tokens >= 64) kernel.most_segments = segments;
  return kernel;
}

/// Weights so few that the kernel for them takes any number of tokens, and those of which it takes few
/// tokens: n and k decide, for they fix the order of sums.
bool few_weights(bool fp8, bool decode, std::int64_t n, std::int64_t k) {
  return !fp8 && decode && n <= 64 && k % 8 == 0;
}
bool sums_in_pairs(const Sm90GemmShape& shape, int segments) {
  return !shape.fp8 && shape.decode && shape.n > 64 && shape.n <= 256 && shape.k % 8 == 0 &&
         segments == GemmFewConfig::segments && shape.k <= GemmFewConfig::most_as_wgmma;
}

/// Small tiles fetch operands often, large ones by few multiprocessors. With 24 weights to a tile the eleven
/// clusters of a router find a multiprocessor for every block.
Sm90GemmKernel plan_few(const Sm90GemmShape& shape, bool pairs) {
  const int tokens = pairs ? (shape.m <= 16 ? 16 : 32) : shape.m <= 16 ? 8 : shape.m <= 64 ? 16 : 32;
  return {.kind = Sm90GemmKind::few,
          .fp8 = 0,
          .tile_m = tokens,
          .tile_n = pairs          ? 24
                    : shape.m > 16 ? 32
                                   : 16,
          .stages = 1,
          .groups = 0,
          .stage_blocks = GemmFewConfig::pair,
          .most_segments = GemmFewConfig::segments,
          .cluster_m = 1,
          .cluster_n = 1,
          .row_scales = 0,
          .shares = 0,
          .pairs = pairs};
}

// Few tokens: as much of the weights under way as shared memory holds, by one block or by several. More: the
// smallest tiles that still all start at once; or else large ones, which fetch the weights seldom.
Sm90GemmKernel plan_decode(const Sm90GemmShape& shape, int segments, int sms) {
  const std::int64_t blocks = ceil_div(shape.n, GemmDecodeConfig::rows) * segments;
  const bool crowded = blocks > 2 * sms;
  const bool short_k =
      ceil_div(shape.k, block_elements(shape.fp8)) <= 4 * segments;  // two stages hold all of it
  if (shape.m <= 8) return decode_kernel(shape.fp8, 8, 1, 2, short_k ? 2 : crowded ? 3 : 4, segments);
  // There is room for some seven clusters of 16 blocks at a time, one block to a multiprocessor; a smaller
  // device may have none, so its blocks are small.
  const bool few = segments >= 8 && ceil_div(shape.m, 16) * blocks <= (segments == 16 ? 96 : sms);
  if (shape.m <= 16 || few || (segments == 16 && sms < 132))
    return decode_kernel(shape.fp8, 16, 1, 2, short_k ? 2 : crowded ? 3 : 5, segments);
  if (shape.m <= 32 || ceil_div(shape.m, 32) * blocks <= sms)
    return decode_kernel(shape.fp8, 32, 1, 2, 4, segments);
  if (shape.m <= 64 || sums_in_pairs(shape, segments) || ceil_div(shape.m, 64) * blocks <= sms)
    return decode_kernel(shape.fp8, 64, segments >= 8 ? 1 : 2, 2,
                         segments == 1   ? 5
                         : segments == 2 ? 4
                                         : 3,
                         segments);
  if (shape.fp8 && segments == 2) return decode_kernel(true, 128, 2, 2, 3, segments);
  return decode_kernel(shape.fp8, 128, 2, 1, 6, segments);
}

// What a tile costs beside its products, in microseconds: the first loads, and of the stores what the next
// tile does not hide.
constexpr double kTileCost = 0.6;

struct Tile {
  int m, n, stages;
  double step;          // microseconds of one block of k, on an H200
  bool shares = false;  // its last round may be shared out; others wait for memory, or are seldom chosen
  double alone = step;  // the same where no other tile has its weights, which then come from memory
  double cost = kTileCost;
};
// 2026-11-22 and 23, H200s, cold L2; see docs/performance_hopper.md. 64 x 144 takes 0.29; it is put dearer,
// so that it is chosen where it was timed.
constexpr Tile kFp8Tiles[] = {{256, 128, 3, 0.79, true, 1.6},
                              {128, 192, 4, 0.59, true, 1.2},
                              {128, 144, 5, 0.53, false, 0.9},
                              {128, 256, 4, 0.765, false, 1.2, 1.1},
                              {128, 128, 6, 0.43, true, 0.85},
                              {128, 64, 8, 0.25, false, 0.34},
                              {64, 144, 7, 0.38, false, 0.5},
                              {64, 128, 8, 0.33},
                              {64, 96, 8, 0.26},
                              {64, 64, 8, 0.17},
                              {64, 48, 14, 0.15}};
// With scales for every row of b. Not measured: the steps say that the large one is the better where both
// fill the device.
constexpr Tile kRowScaleTiles[] = {{128, 128, 5, 0.6}, {64, 64, 8, 0.25}};
constexpr Tile kBf16Tiles[] = {{128, 256, 3, 0.68}, {128, 192, 4, 0.52}, {128, 128, 5, 0.37},
                               {128, 64, 8, 0.21},  {64, 128, 8, 0.24},  {64, 64, 12, 0.15},
                               {64, 32, 16, 0.11}};

// A cluster of blocks that share an operand: two fetch half of it each, and wait for each other. Worth it
// where tiles are large and many, and there is a neighbour for every tile.
struct Pair {
  int m = 1;
  int n = 1;
};
Pair pair_of(const Sm90GemmShape& shape, const Tile& tile) {
  if (shape.row_scales) return {};
  const bool pairs_m = ceil_div(shape.m, tile.m) % 2 == 0;
  const bool pairs_n = ceil_div(shape.n, tile.n) % 2 == 0;
  if (tile.m == 256) {
    if (pairs_n && shape.m >= 1024 && ceil_div(shape.k, block_elements(shape.fp8)) >= 20) return {1, 2};
  } else if (tile.n == 256 || (!shape.fp8 && tile.m == 128 && tile.n > 128)) {
    if (pairs_m) return {2, 1};
    if (pairs_n) return {1, 2};
  }
  return {};
}

// Where sums change hands, leaving 128 x 128 of them behind and going on from them, in microseconds.
constexpr double kLeaveCost = 0.5;
constexpr double kTakeCost = 2.5;

struct Walk {
  double cost;  // microseconds
  GemmShare share;
};

// All tiles, each whole.
Walk walk_whole(const Tile& tile, std::int64_t tiles, std::int64_t blocks, int clusters) {
  const std::int64_t rounds = ceil_div(tiles, clusters);
  return {static_cast<double>(rounds) * (static_cast<double>(blocks) * tile.step + tile.cost), {}};
}

// The same with the last round shared out, by the cut that is over first; dear if there is nothing to share.
Walk walk_shared(const Tile& tile, std::int64_t tiles, std::int64_t blocks, int clusters) {
  Walk best{1e30, {}};
  const std::int64_t rounds = ceil_div(tiles, clusters);
  const std::int64_t givers = tiles - (rounds - 1) * clusters;
  const std::int64_t takers = clusters - givers;
  if (rounds < 2 || takers == 0) return best;
  const double sums = tile.m * tile.n / (128.0 * 128.0);
  const double whole = static_cast<double>(blocks) * tile.step + tile.cost;
  const auto taken = static_cast<double>(ceil_div(givers, takers));
  for (std::int64_t cut = 4; cut < blocks; cut += 4) {
    const double giver = static_cast<double>(cut) * tile.step + kLeaveCost * sums;
    const double taker = taken * (static_cast<double>(blocks - cut) * tile.step + kTakeCost * sums);
    const double cost = static_cast<double>(rounds - 1) * whole + std::max(giver, taker);
    if (cost < best.cost)
      best = {cost, {static_cast<int>(cut), static_cast<int>(rounds) - 2, static_cast<int>(givers), -1}};
  }
  return best;
}

// Lines of L2 that go first spare what is there, which would have to be written to memory. Where rows are
// many, other tiles still want them; beside long results and where weights exceed L2 many times over they are
// slower, too.
bool weights_leave(const Sm90GemmShape& shape) {
  constexpr std::int64_t kMostBytes = 500'000'000;
  return shape.m <= (shape.fp8 ? 512 : 256) && shape.k >= 4 * shape.m &&
         shape.n * shape.k * (shape.fp8 ? 1 : 2) < kMostBytes;
}

Sm90GemmPlan plan_prefill(const Sm90GemmShape& shape, int sms) {
  const std::int64_t blocks = ceil_div(shape.k, block_elements(shape.fp8));
  const std::span<const Tile> tiles = shape.row_scales ? std::span<const Tile>(kRowScaleTiles)
                                      : shape.fp8      ? std::span<const Tile>(kFp8Tiles)
                                                       : std::span<const Tile>(kBf16Tiles);
  Tile best{};
  Walk walk{1e30, {}};
  const auto consider = [&](Tile tile, bool shares, double least_gain) {
    const Pair pair = pair_of(shape, tile);
    if (shape.fp8 && tile.n == 256 && pair.m == 1) return;  // alone it fetches too much
    if (shape.m <= tile.m * pair.m) tile.step = tile.alone;
    const std::int64_t all = ceil_div(shape.m, tile.m * pair.m) * ceil_div(shape.n, tile.n * pair.n);
    const Walk next =
        (shares ? walk_shared : walk_whole)(tile, all, blocks, std::max(1, sms / (pair.m * pair.n)));
    if (next.cost >= walk.cost * least_gain) return;
    best = tile;
    walk = next;
  };
  for (const Tile& tile : tiles) consider(tile, false, 1);
  if (sms <= GemmPrefillConfig::most_sharing) {
    const double least_gain = 0.985;
    const double unshared = walk.cost;
    for (const Tile& tile : tiles) {
      if (tile.shares) consider(tile, true, walk.cost < unshared ? 1 : least_gain);
    }
  }
  const Pair pair = pair_of(shape, best);
  return {.kernel = {.kind = Sm90GemmKind::prefill,
                     .fp8 = shape.fp8,
                     .tile_m = best.m,
                     .tile_n = best.n,
                     .stages = best.stages,
                     .groups = 0,
                     .stage_blocks = 1,
                     .most_segments = 1,
                     .cluster_m = pair.m,
                     .cluster_n = pair.n,
                     .row_scales = shape.row_scales,
                     .shares = walk.share.cut > 0,
                     .pairs = 0},
          .segments = 1,
          .share = walk.share,
          .weights_leave = weights_leave(shape)};
}

}  // namespace

int sm90_gemm_segments(bool fp8, bool decode, std::int64_t n, std::int64_t k) {
  if (!decode) return 1;
  if (few_weights(fp8, decode, n, k)) return GemmFewConfig::segments;
  // Of the architecture's largest device, not of the one at hand: what clusters of up to 16 find room for at
  // a time.
  constexpr int kPlaces = 128;
  const std::int64_t tiles = ceil_div(n, 64);
  const std::int64_t blocks = ceil_div(k, block_elements(fp8));
  const int most = n <= 64 ? 16 : 8;
  int segments = 1;
  while (segments < most && tiles * segments * 2 <= kPlaces && blocks >= segments * 2 * 3) segments *= 2;
  return segments;
}

Sm90GemmPlan plan_sm90_gemm(const Sm90GemmShape& shape, const cuda::DeviceInfo& device) {
  if (shape.row_scales) return plan_prefill(shape, device.num_sms);
  const int segments = sm90_gemm_segments(shape.fp8, shape.decode, shape.n, shape.k);
  if (few_weights(shape.fp8, shape.decode, shape.n, shape.k)) return {plan_few(shape, false), segments};
  if (sums_in_pairs(shape, segments)) {
    if (shape.m <= 32) return {plan_few(shape, true), segments};
    Sm90GemmKernel kernel = plan_decode(shape, segments, device.num_sms);
    kernel.pairs = 1;
    return {kernel, segments};
  }
  // One segment gives the same sums in both kernels. For up to 64 rows, of FP8 47, the decode kernel is the
  // faster where a block for every 64 columns is enough and has long to go.
  const bool long_k = shape.m <= (shape.fp8 ? 47 : 64) &&
                      ceil_div(shape.n, GemmDecodeConfig::rows) <= device.num_sms &&
                      ceil_div(shape.k, block_elements(shape.fp8)) >= 64;
  // For 9 to 16 rows the prefill kernel is the faster where tiles are many and short.
  const bool short_tiles = shape.fp8 && shape.m > 8 && shape.k <= 12 * block_elements(true) &&
                           ceil_div(shape.n, GemmDecodeConfig::rows) > 2 * device.num_sms;
  if (segments > 1 || (shape.m <= 16 && !short_tiles) || long_k)
    return {plan_decode(shape, segments, device.num_sms), segments};
  return plan_prefill(shape, device.num_sms);
}

}  // namespace fathom
