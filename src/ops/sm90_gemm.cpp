#include "ops/sm90_gemm.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <span>

#include "cuda/device_context.hpp"
#include "jit/kernel_cache.hpp"
#include "ops/tile_queues.hpp"

namespace fathom {
namespace {

GemmDecodeConfig decode_config(const Sm90GemmKernel& kernel) {
  return {.fp8 = kernel.fp8 != 0,
          .tokens = kernel.tile_m,
          .groups = kernel.groups,
          .stage_blocks = kernel.stage_blocks,
          .stages = kernel.stages,
          .most_segments = kernel.most_segments};
}

GemmPrefillConfig prefill_config(const Sm90GemmKernel& kernel) {
  return {.fp8 = kernel.fp8 != 0,
          .block_m = kernel.tile_m,
          .block_n = kernel.tile_n,
          .stages = kernel.stages,
          .cluster_m = kernel.cluster_m,
          .cluster_n = kernel.cluster_n,
          .row_scales = kernel.row_scales != 0,
          .shares = kernel.shares != 0};
}

Sm90GemmKernel decode_kernel(bool fp8, int tokens, int groups, int stage_blocks, int stages, int segments) {
  Sm90GemmKernel kernel{.decode = 1,
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
                        .shares = 0};
  // Where many sums change hands, how many is compiled; few have one kernel for all.
  if (tokens >= 64) kernel.most_segments = segments;
  return kernel;
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
  if (shape.m <= 64 || ceil_div(shape.m, 64) * blocks <= sms)
    return decode_kernel(shape.fp8, 64, segments >= 8 ? 1 : 2, 2, segments == 1 ? 5 : 3, segments);
  return decode_kernel(shape.fp8, 128, 2, 1, 6, segments);
}

struct Tile {
  int m, n, stages;
  double step;          // microseconds of one block of k, on an H200
  bool shares = false;  // its last round may be shared out; others wait for memory, or are seldom chosen
};
// 2026-11-22, one H200, cold L2; see docs/performance_hopper.md.
constexpr Tile kFp8Tiles[] = {{256, 128, 3, 0.79, true}, {128, 192, 4, 0.59, true}, {128, 144, 5, 0.53},
                              {128, 128, 5, 0.43, true}, {128, 64, 8, 0.25},        {64, 128, 8, 0.33},
                              {64, 96, 8, 0.26},         {64, 64, 8, 0.17},         {64, 48, 14, 0.15}};
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
    if (pairs_n && shape.m >= 1024 && ceil_div(shape.k, block_elements(shape.fp8)) >= 8) return {1, 2};
  } else if (!shape.fp8 && tile.m == 128 && tile.n > 128) {
    if (pairs_m) return {2, 1};
    if (pairs_n) return {1, 2};
  }
  return {};
}

// What a tile costs beside its products, in microseconds: the first loads, and of the stores what the next
// tile does not hide. Where sums change hands, leaving 128 x 128 of them behind and going on from them.
constexpr double kTileCost = 0.6;
constexpr double kLeaveCost = 0.5;
constexpr double kTakeCost = 2.5;

struct Walk {
  double cost;  // microseconds
  GemmShare share;
};

// All tiles, each whole.
Walk walk_whole(const Tile& tile, std::int64_t tiles, std::int64_t blocks, int clusters) {
  const std::int64_t rounds = ceil_div(tiles, clusters);
  return {static_cast<double>(rounds) * (static_cast<double>(blocks) * tile.step + kTileCost), {}};
}

// The same with the last round shared out, by the cut that is over first; dear if there is nothing to share.
Walk walk_shared(const Tile& tile, std::int64_t tiles, std::int64_t blocks, int clusters) {
  Walk best{1e30, {}};
  const std::int64_t rounds = ceil_div(tiles, clusters);
  const std::int64_t givers = tiles - (rounds - 1) * clusters;
  const std::int64_t takers = clusters - givers;
  if (rounds < 2 || takers == 0) return best;
  const double sums = tile.m * tile.n / (128.0 * 128.0);
  const double whole = static_cast<double>(blocks) * tile.step + kTileCost;
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

Sm90GemmPlan plan_prefill(const Sm90GemmShape& shape, int sms) {
  const std::int64_t blocks = ceil_div(shape.k, block_elements(shape.fp8));
  const std::span<const Tile> tiles = shape.row_scales ? std::span<const Tile>(kRowScaleTiles)
                                      : shape.fp8      ? std::span<const Tile>(kFp8Tiles)
                                                       : std::span<const Tile>(kBf16Tiles);
  Tile best{};
  Walk walk{1e30, {}};
  const auto consider = [&](const Tile& tile, bool shares, double least_gain) {
    const Pair pair = pair_of(shape, tile);
    const std::int64_t all = ceil_div(shape.m, tile.m * pair.m) * ceil_div(shape.n, tile.n * pair.n);
    const Walk next = (shares ? walk_shared : walk_whole)(tile, all, blocks, sms / (pair.m * pair.n));
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
  return {.kernel = {.decode = 0,
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
                     .shares = walk.share.cut > 0},
          .segments = 1,
          .share = walk.share};
}

cuda::TensorMapSpec operand_spec(const TensorView& tensor, std::int64_t rows) {
  const std::int64_t bytes = size_of(tensor.dtype);
  return {.data = tensor.data,
          .type = bytes == 1 ? cuda::TensorMapType::u8 : cuda::TensorMapType::bf16,
          .rank = 2,
          .size = {tensor.size(1), tensor.size(0)},
          .stride_bytes = {0, tensor.step(0) * bytes},
          .box = {128 / bytes, rows},
          .swizzle = cuda::TensorMapSwizzle::bytes_128};
}

// A matrix of one row has no distance between rows; TMA wants one that suits it all the same.
TensorView with_row_step(TensorView tensor) {
  const std::int64_t each = 16 / size_of(tensor.dtype);
  if (tensor.size(0) == 1) tensor.stride[0] = ceil_div(tensor.size(1), each) * each;
  return tensor;
}

}  // namespace

int sm90_gemm_segments(bool fp8, bool decode, std::int64_t n, std::int64_t k) {
  if (!decode) return 1;
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
  // One segment gives the same sums in both kernels. For up to 64 rows the decode kernel is the faster where
  // a block for every 64 columns is enough and has long to go.
  const bool long_k = shape.m <= 64 && ceil_div(shape.n, GemmDecodeConfig::rows) <= device.num_sms &&
                      ceil_div(shape.k, block_elements(shape.fp8)) >= 64;
  if (segments > 1 || shape.m <= 16 || long_k)
    return {plan_decode(shape, segments, device.num_sms), segments};
  return plan_prefill(shape, device.num_sms);
}

jit::Source sm90_gemm_source(const Sm90GemmKernel& kernel) {
  const bool decode = kernel.decode != 0;
  const char* type = kernel.fp8 != 0 ? "f8e4m3" : "bf16";
  const char* fp8 = kernel.fp8 != 0 ? "true" : "false";
  const std::string name =
      decode ? fmt::format("gemm.sm90_decode_{}_m{}n{}b{}s{}x{}", type, kernel.tile_m, kernel.tile_n,
                           kernel.stage_blocks, kernel.stages, kernel.most_segments)
             : fmt::format("gemm.sm90_prefill_{}{}_m{}n{}s{}c{}x{}", type,
                           kernel.row_scales ? "_rows"
                           : kernel.shares   ? "_shared"
                                             : "",
                           kernel.tile_m, kernel.tile_n, kernel.stages, kernel.cluster_m, kernel.cluster_n);
  const std::string config =
      decode
          ? fmt::format(
                "GemmDecodeConfig kConfig{{.fp8 = {}, .tokens = {}, .groups = {}, "
                ".stage_blocks = {}, .stages = {}, .most_segments = {}}}",
                fp8, kernel.tile_m, kernel.groups, kernel.stage_blocks, kernel.stages, kernel.most_segments)
          : fmt::format(
                "GemmPrefillConfig kConfig{{.fp8 = {}, .block_m = {}, .block_n = {}, .stages = {}, "
                ".cluster_m = {}, .cluster_n = {}, .row_scales = {}, .shares = {}}}",
                fp8, kernel.tile_m, kernel.tile_n, kernel.stages, kernel.cluster_m, kernel.cluster_n,
                kernel.row_scales != 0, kernel.shares != 0);
  const char* what = decode ? "gemm_decode" : "gemm_prefill";
  const int shared = decode ? decode_config(kernel).shared_bytes() : prefill_config(kernel).shared_bytes();
  return {name, fmt::format("#include \"sm90/{0}.cuh\"\n"
                            "namespace fathom {{\n"
                            "constexpr {1};\n"
                            "static_assert(sizeof(GemmArgs) == {2} && kConfig.shared_bytes() == {3});\n"
                            "}}\n"
                            "extern \"C\" __global__ void __launch_bounds__(fathom::kConfig.threads(), 1)\n"
                            "fathom_kernel(const __grid_constant__ fathom::GemmArgs args) {{\n"
                            "  fathom::{0}<fathom::kConfig>(args);\n"
                            "}}\n",
                            what, config, sizeof(GemmArgs), shared)};
}

std::vector<jit::Source> gemm_sources(const Sm90GemmShape& shape, const cuda::DeviceInfo& device) {
  std::vector<jit::Source> sources{simt_gemm_source(simt_plan(shape.fp8))};
  if (device.sm() == 90 && shape.k > 0)
    sources.push_back(sm90_gemm_source(plan_sm90_gemm(shape, device).kernel));
  return sources;
}

bool rows_suit_tma(const TensorView& tensor) {
  if (tensor.size(1) == 0) return true;  // nothing to address
  return reinterpret_cast<std::uintptr_t>(tensor.data) % 16 == 0 &&
         (tensor.size(0) <= 1 || step_suits_tma(tensor.step(0) * size_of(tensor.dtype)));
}

Verdict sm90_gemm_verdict(const Sm90GemmShape& given, bool aligned, const Context& context) {
  Sm90GemmShape shape = given;
  shape.decode = in_decode_class(given.decode, context);
  const cuda::DeviceInfo& device = cuda::device_context(context).info();
  if (Verdict other = needs_sm90(device)) return other;
  if (!aligned) return decline("needs rows of a and b at multiples of 16 bytes, got others");
  if (Verdict large = needs_small_sizes({shape.m, shape.n, shape.k})) return large;
  constexpr std::int64_t kMostTiles = 65535;  // blocks of a grid along y
  constexpr std::int64_t kLeastTile =
      8;  // tokens; with fewer rows than that the call need not be planned twice
  if (shape.m > kMostTiles * kLeastTile) {
    const Sm90GemmKernel kernel = plan_sm90_gemm(shape, device).kernel;
    if (kernel.decode != 0 && ceil_div(shape.m, kernel.tile_m) > kMostTiles)
      return decline("needs fewer rows in the decode class, got " + std::to_string(shape.m));
  }
  return accept;
}

TensorMap sm90_operand_map(const TensorView& tensor, std::int64_t rows, const Context& context) {
  const cuda::Current current(cuda::device_context(context));  // the driver encodes tensor maps for it
  return encode_map(operand_spec(with_row_step(tensor), rows), context);
}

void map_result(GemmArgs& args, cuda::TensorMapSpec spec, const GemmPrefillConfig& config,
                const Context& context) {
  spec.box = {config.store_columns(), config.store_rows(), 1};
  spec.swizzle = config.store_columns() == 64   ? cuda::TensorMapSwizzle::bytes_128
                 : config.store_columns() == 32 ? cuda::TensorMapSwizzle::bytes_64
                                                : cuda::TensorMapSwizzle::bytes_32;
  spec.promotion = cuda::TensorMapL2Promotion::none;
  spec.stored = true;
  if (cuda::tensor_map_refusal(spec)) return;
  args.out = encode_map(spec, context);
  args.out_mapped = 1;
}

void run_sm90_gemm(const Sm90GemmShape& given, const Sm90GemmTensors& tensors, const Context& context) {
  Sm90GemmShape shape = given;
  shape.decode = in_decode_class(given.decode, context);
  if (shape.m == 0 || shape.n == 0) return;
  if (shape.k == 0) {  // zeros, or what is there: nothing to multiply, and nothing for TMA to describe
    return run_simt_gemm(simt_plan(shape.fp8),
                         simt_gemm_args(tensors.a, tensors.b, tensors.out, tensors.accumulate), context);
  }
  const cuda::DeviceInfo& device = cuda::device_context(context).info();
  const Sm90GemmPlan plan = plan_sm90_gemm(shape, device);
  const jit::Kernel& kernel = jit::kernel(context, sm90_gemm_source, plan.kernel);
  if (context.compile_mode() == CompileMode::compile_only) return;

  const cuda::Current current(cuda::device_context(context));  // the driver encodes tensor maps for it
  const bool decode = plan.kernel.decode != 0;
  const GemmPrefillConfig prefill = prefill_config(plan.kernel);
  GemmArgs args{};
  args.tokens = encode_map(operand_spec(with_row_step(tensors.a),
                                        decode ? plan.kernel.tile_m : prefill.block_m / prefill.cluster_n),
                           context);
  args.weights = encode_map(operand_spec(with_row_step(tensors.b),
                                         decode ? plan.kernel.tile_n : prefill.block_n / prefill.cluster_m),
                            context);
  if (shape.fp8) {
    args.token_scale = tensors.a_scale.data;
    args.token_scale_row = tensors.a_scale.step(0);
    args.token_scale_block = tensors.a_scale.step(1);
    args.token_scale_kind = scale_kind(tensors.a_scale);
    args.weight_scale = static_cast<const float*>(tensors.b_scale.data);
    args.weight_scale_kind = scale_kind(tensors.b_scale);
    args.weight_scale_row = tensors.b_scale.step(0);
    args.weight_scale_block = tensors.b_scale.step(1);
  }
  args.out_data = tensors.out.data;
  args.out_row = tensors.out.step(0);
  args.m = static_cast<int>(shape.m);
  args.n = static_cast<int>(shape.n);
  args.blocks = static_cast<int>(ceil_div(shape.k, block_elements(shape.fp8)));
  args.out_f32 = tensors.out.dtype == DType::f32;
  args.accumulate = tensors.accumulate;
  args.overlapped = context.options().dependent_launch;
  args.gated = tensors.gate.given;
  args.gate_factor = tensors.gate.factor;
  if (tensors.gate.scale.given()) {
    args.gate = tensors.gate.scale.as<const float>();
    args.gate_row = tensors.gate.scale.step(0);
  }
  if (decode) {
    const GemmDecodeConfig config = decode_config(plan.kernel);
    const auto segments = static_cast<unsigned>(plan.segments);
    jit::launch(kernel,
                {.grid = {segments * static_cast<unsigned>(ceil_div(shape.n, config.rows)),
                          static_cast<unsigned>(ceil_div(shape.m, config.tokens))},
                 .block = {static_cast<unsigned>(config.threads())},
                 .cluster = {segments},
                 .shared_bytes = config.shared_bytes(),
                 .pdl = args.overlapped != 0},
                context, args);
    return;
  }
  if (plan.kernel.shares != 0) {
    args.share = plan.share;
    args.share.queue = tile_queue(context);
  }
  if (!args.out_f32)
    map_result(args, operand_spec(with_row_step(tensors.out), prefill.store_rows()), prefill, context);
  const auto cluster = static_cast<unsigned>(prefill.cluster_m * prefill.cluster_n);
  const std::int64_t tiles = ceil_div(shape.m, prefill.block_m * prefill.cluster_m) *
                             ceil_div(shape.n, prefill.block_n * prefill.cluster_n);
  const std::int64_t places = device.num_sms / static_cast<int>(cluster);
  // No more than the rounds need: those of other tiles then run at a higher clock.
  const std::int64_t walkers = plan.kernel.shares != 0 ? places : ceil_div(tiles, ceil_div(tiles, places));
  jit::launch(kernel,
              {.grid = {cluster * static_cast<unsigned>(walkers)},
               .block = {static_cast<unsigned>(prefill.threads())},
               .cluster = {cluster},
               .shared_bytes = prefill.shared_bytes(),
               .pdl = args.overlapped != 0},
              context, args);
}

}  // namespace fathom
