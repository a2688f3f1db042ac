#include "ops/sm90_grouped.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <optional>
#include <span>

#include "cuda/device_context.hpp"
#include "jit/kernel_cache.hpp"
#include "ops/tile_queues.hpp"

namespace fathom {
namespace {

struct Tile {
  int m, n, stages;
  double step;  // microseconds of one block of k, as measured
  double end;   // and of a tile's end
  // Of the time that weights take from memory, how much is seen beside the products.
  double exposed = 0.1;
  double last = 0;  // microseconds more of the last tile's end, which no other hides
};
// Four stages hide memory better; three leave room for results to go out during the next tile.
constexpr Tile kFp8Tiles[] = {{256, 128, 4, 0.79, 1.5, 0.05}, {128, 256, 3, 0.79, 0.9, 0.1, 0.8},
                              {128, 256, 4, 0.78, 1.4, 0.05}, {128, 192, 4, 0.66, 1.2},
                              {128, 192, 5, 0.67, 1.2, 0.02}, {128, 128, 5, 0.47, 0.9},
                              {64, 128, 8, 0.33, 0.6}};
constexpr Tile kBf16Tiles[] = {{128, 256, 3, 0.68, 0.6}, {128, 128, 5, 0.37, 0.6}, {64, 128, 8, 0.24, 0.6}};
constexpr double kBytesPerMicrosecond = 4.3e6;

struct Expectation {
  double groups;  // with rows
  double rows;    // of such a group
};
Expectation expectation(const Sm90GroupedShape& shape) {
  const auto groups = static_cast<double>(shape.groups);
  const auto rows = static_cast<double>(shape.rows);
  if (shape.masked)
    return {groups, static_cast<double>(shape.expected_m > 0 ? shape.expected_m : shape.rows)};
  if (shape.expected_m <= 0) return {std::min(groups, rows), std::max(1.0, rows / groups)};
  const auto expected = static_cast<double>(shape.expected_m);
  return {std::clamp(rows / expected, 1.0, groups), expected};
}

// Tiles of rows of a group, on average; of those of 256, what one with fewer slabs of 64 takes.
double row_tiles(bool by_id, double rows, int tile) {
  // Rows that groups pad to 128: of larger tiles, every second at a border is taken twice.
  if (by_id) return std::max(1.0, rows / tile + (tile > 128 ? 0.5 : 0.0));
  constexpr double kCounts[] = {0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3};  // of what is expected
  double tiles = 0;
  for (const double count : kCounts) {
    const double all = count * rows / tile;
    constexpr double kSlabs[] = {0, 0.72, 0.72, 0.82, 1};
    const double whole = std::floor(all);
    tiles += tile == 256 ? whole + kSlabs[static_cast<int>(std::ceil((all - whole) * 4))] : std::ceil(all);
  }
  return tiles / std::size(kCounts);
}

struct Planes {
  std::int64_t count;
  std::int64_t rows;
  std::int64_t width;
  std::int64_t row_step;  // elements
  std::int64_t plane_step;
};

cuda::TensorMapSpec spec_of(const void* data, DType dtype, Planes p) {
  const std::int64_t bytes = size_of(dtype);
  const std::int64_t each = 16 / bytes;
  // One row or one plane has no distance to the next; TMA wants one that suits it all the same.
  if (p.rows == 1) p.row_step = ceil_div(p.width, each) * each;
  if (p.count == 1) p.plane_step = p.row_step;
  return {.data = data,
          .type = bytes == 1 ? cuda::TensorMapType::u8 : cuda::TensorMapType::bf16,
          .rank = 3,
          .size = {p.width, p.rows, p.count},
          .stride_bytes = {0, p.row_step * bytes, p.plane_step * bytes}};
}

Planes planes_of(const TensorView& t) {
  if (t.rank == 3) return {t.size(0), t.size(1), t.size(2), t.step(1), t.step(0)};
  return {1, t.size(0), t.size(1), t.step(0), 0};
}

// Elements between matrices of a stack.
std::int64_t distance(std::span<const TensorView> stack) {
  if (stack.size() < 2) return 0;
  return (stack[1].as<std::byte>() - stack[0].as<std::byte>()) / size_of(stack[0].dtype);
}

TensorMap operand_map(const TensorView& first, Planes planes, std::int64_t rows, const Context& context) {
  cuda::TensorMapSpec spec = spec_of(first.data, first.dtype, planes);
  spec.box = {128 / size_of(first.dtype), rows, 1};
  spec.swizzle = cuda::TensorMapSwizzle::bytes_128;
  return encode_map(spec, context);
}

GroupedGemmArgs arguments(const Sm90GroupedShape& shape, GroupLayout layout, const GroupedTensors& tensors) {
  GroupedGemmArgs args{};
  args.groups = static_cast<int>(shape.groups);
  args.layout = layout == GroupLayout::masked    ? GroupedGemmArgs::masked
                : layout == GroupLayout::offsets ? GroupedGemmArgs::offsets
                                                 : GroupedGemmArgs::contiguous;
  args.index = (layout == GroupLayout::masked    ? tensors.rows.masked_m
                : layout == GroupLayout::offsets ? tensors.rows.offsets
                                                 : tensors.rows.row_to_group)
                   .as<const int>();
  GemmArgs& gemm = args.gemm;
  if (shape.fp8) {
    const Planes scales = planes_of(tensors.a_scale);
    gemm.token_scale = tensors.a_scale.data;
    gemm.token_scale_row = scales.row_step;
    gemm.token_scale_block = tensors.a_scale.step(tensors.a_scale.rank - 1);
    gemm.token_scale_kind = scale_kind(tensors.a_scale);
    args.token_scale_plane = scales.plane_step;
    gemm.weight_scale = tensors.b_scale[0].as<const float>();
    gemm.weight_scale_row = tensors.b_scale[0].step(0);
    gemm.weight_scale_block = tensors.b_scale[0].step(1);
    args.weight_scale_plane = distance(tensors.b_scale);
  }
  const Planes out = planes_of(tensors.out);
  gemm.out_data = tensors.out.data;
  gemm.out_row = out.row_step;
  args.out_plane = out.plane_step;
  if (tensors.out_scale.given()) {
    const Planes scales = planes_of(tensors.out_scale);
    args.out_scale = tensors.out_scale.as<float>();
    args.out_scale_row = scales.row_step;
    args.out_scale_plane = scales.plane_step;
  }
  gemm.m = static_cast<int>(shape.rows);
  gemm.n = static_cast<int>(shape.n);
  gemm.blocks = static_cast<int>(ceil_div(shape.k, block_elements(shape.fp8)));
  gemm.out_f32 = tensors.out.dtype == DType::f32;
  return args;
}

// No more tiles of rows than this, whatever the index holds that is valid.
std::int64_t most_row_tiles(const Sm90GroupedShape& shape, int tile_m) {
  const std::int64_t tiles = ceil_div(shape.rows, tile_m);
  return shape.masked ? tiles * shape.groups : tiles + shape.groups;
}

// For few rows in a group, up to 8, 16, 32 or 64 to a tile. More loads under way than the narrow one's would
// be slower.
Sm90GroupedKernel swapped_kernel(bool fp8, int tokens, bool narrow) {
  const int stages = narrow ? 8 : tokens <= 8 ? 10 : tokens <= 16 ? 9 : tokens <= 32 ? 8 : 6;
  return {.swapped = 1,
          .fp8 = fp8,
          .tile_m = tokens,
          .tile_n = narrow ? 64 : 128,
          .stages = stages,
          .cluster_n = 1};
}

// Up to 64 rows by 256 weights: one warpgroup keeps up with the memory, and large boxes bring weights in
// faster than small ones if there are many rounds of them.
constexpr Sm90GroupedKernel kFewByMany{
    .swapped = 0, .fp8 = 1, .tile_m = 64, .tile_n = 256, .stages = 5, .cluster_n = 1};
// Rows of a tile that are not the group's are a neighbour's, and in L2, unless every group has a block of its
// own.
bool many_large_tiles(const Sm90GroupedShape& shape, const Expectation& expected, int sms) {
  constexpr int kManyRounds = 10;
  const double tiles = expected.groups * static_cast<double>(ceil_div(shape.n, kFewByMany.tile_n));
  return shape.fp8 && !shape.masked && tiles >= kManyRounds * sms;
}

// Few rows in a group: whatever reads the weights fastest. A group with more rows than fit reads its weights
// again, most of them from L2.
std::optional<Sm90GroupedKernel> plan_swapped(const Sm90GroupedShape& shape, const Expectation& expected,
                                              int sms) {
  for (const int tokens : {8, 16, 32, 64}) {
    if (1.5 * expected.rows > tokens) continue;
    if (tokens == 8 && many_large_tiles(shape, expected, sms)) return kFewByMany;
    const auto rounds = [&](int weights) {
      return std::ceil(expected.groups * static_cast<double>(ceil_div(shape.n, weights)) / sms);
    };
    // Narrow tiles share out better, which many rounds do not need, and load rows more often.
    constexpr int kManyRounds = 16;
    const bool narrow = tokens <= 32 ? rounds(128) < kManyRounds : rounds(64) < 1.8 * rounds(128);
    return swapped_kernel(shape.fp8, tokens, shape.fp8 && narrow);
  }
  return std::nullopt;
}

// Weights of all groups that have rows.
double weight_bytes(const Sm90GroupedShape& shape, const Expectation& expected) {
  return expected.groups * static_cast<double>(shape.n * shape.k * (shape.fp8 ? 1 : 2));
}

}  // namespace

GemmPrefillConfig sm90_grouped_config(const Sm90GroupedKernel& kernel) {
  const bool swapped = kernel.swapped != 0;
  return {.fp8 = kernel.fp8 != 0,
          .block_m = swapped ? kernel.tile_n : kernel.tile_m,
          .block_n = swapped ? kernel.tile_m : kernel.tile_n,
          .stages = kernel.stages,
          .cluster_m = 1,
          .cluster_n = kernel.cluster_n,
          .row_scales = swapped && kernel.fp8 != 0,
          .grouped = true,
          .swapped = swapped,
          .activates = kernel.activates != 0};
}

Sm90GroupedKernel plan_sm90_grouped(const Sm90GroupedShape& shape, const cuda::DeviceInfo& device) {
  const auto blocks = static_cast<double>(ceil_div(shape.k, block_elements(shape.fp8)));
  const Expectation expected = expectation(shape);
  if (const auto swapped = plan_swapped(shape, expected, device.num_sms)) return *swapped;
  const double bytes = weight_bytes(shape, expected);
  const std::span<const Tile> tiles =
      shape.fp8 ? std::span<const Tile>(kFp8Tiles) : std::span<const Tile>(kBf16Tiles);
  // Reading the weights takes as long as it takes; among tiles that keep up with it the cheaper one stands
  // better.
  const auto cost = [&](const Tile& tile) {
    const double count = expected.groups * row_tiles(shape.by_id, expected.rows, tile.m) *
                         static_cast<double>(ceil_div(shape.n, tile.n));
    // Few rounds end all at once. More are drawn from a queue, and their number is a guess.
    const double even = count / device.num_sms;
    const double waves = even > 4 ? even + 0.5 : std::ceil(even);
    const double compute = waves * (blocks * tile.step + tile.end) + tile.last;
    const double memory = bytes / kBytesPerMicrosecond;
    return std::max(compute, memory) + 0.05 * compute + tile.exposed * memory;
  };
  const Tile best = *std::ranges::min_element(tiles, {}, cost);
  Sm90GroupedKernel kernel{.swapped = 0,
                           .fp8 = shape.fp8,
                           .tile_m = best.m,
                           .tile_n = best.n,
                           .stages = best.stages,
                           .cluster_n = 1};
  // Two blocks that share a large tile of tokens fetch half of it each, where every tile of weights has a
  // neighbour.
  const std::int64_t tiles_n = ceil_div(shape.n, best.n);
  const bool suits = best.m == 256 || (!shape.fp8 && best.n == 256);
  if (suits && blocks >= 8 && (tiles_n % 2 == 0 || tiles_n > 20)) kernel.cluster_n = 2;
  return kernel;
}

Sm90GroupedKernel plan_sm90_activated(const Sm90GroupedShape& shape) {
  Sm90GroupedKernel kernel = kFewByMany;
  if (1.5 * expectation(shape).rows > kFewByMany.tile_m) {
    kernel.tile_m = 128;
    kernel.stages = 4;
  }
  kernel.activates = 1;
  return kernel;
}

bool better_activated(const Sm90GroupedShape& shape, const cuda::DeviceInfo& device) {
  const Sm90GroupedKernel plain = plan_sm90_grouped(shape, device);
  if (plain.swapped != 0) return many_large_tiles(shape, expectation(shape), device.num_sms);
  return plain.tile_m <= 128 && plain.tile_n >= 192;  // tiles as large, or nearly
}

jit::Source sm90_grouped_source(const Sm90GroupedKernel& kernel) {
  const GemmPrefillConfig config = sm90_grouped_config(kernel);
  const std::string name = fmt::format("grouped_gemm.sm90_{}_{}_m{}n{}s{}c{}",
                                       config.activates ? "activated"
                                       : config.swapped ? "swapped"
                                                        : "prefill",
                                       config.fp8 ? "f8e4m3" : "bf16", kernel.tile_m, kernel.tile_n,
                                       kernel.stages, kernel.cluster_n);
  return {name,
          fmt::format(
              "#include \"sm90/grouped_walk.cuh\"\n"
              "namespace fathom {{\n"
              "constexpr GemmPrefillConfig kConfig{{.fp8 = {}, .block_m = {}, .block_n = {}, .stages = {}, "
              ".cluster_m = 1, .cluster_n = {}, .row_scales = {}, .grouped = true, .swapped = {}, .activates "
              "= {}}};\n"
              "static_assert(sizeof(GroupedGemmArgs) == {} && kConfig.shared_bytes() == {});\n"
              "}}\n"
              "extern \"C\" __global__ void __launch_bounds__(fathom::kConfig.threads(), 1)\n"
              "fathom_kernel(const __grid_constant__ fathom::GroupedGemmArgs args) {{\n"
              "  fathom::grouped_prefill<fathom::kConfig>(args);\n"
              "}}\n",
              config.fp8, config.block_m, config.block_n, config.stages, config.cluster_n, config.row_scales,
              config.swapped, config.activates, sizeof(GroupedGemmArgs), config.shared_bytes())};
}

std::vector<jit::Source> grouped_sources(const Sm90GroupedShape& shape, const cuda::DeviceInfo& device) {
  std::vector<jit::Source> sources{simt_grouped_source(simt_plan(shape.fp8))};
  if (device.sm() != 90 || shape.k == 0) return sources;
  const Sm90GroupedKernel plan = plan_sm90_grouped(shape, device);
  sources.push_back(sm90_grouped_source(plan));
  // Whether tiles are narrow depends on how many groups have rows.
  if (shape.fp8 && plan.swapped != 0)
    sources.push_back(sm90_grouped_source(swapped_kernel(true, plan.tile_m, plan.tile_n == 128)));
  return sources;
}

bool grouped_suits_tma(const GroupedTensors& tensors) {
  const TensorView& a = tensors.a;
  if (a.size(a.rank - 2) == 0 || a.size(a.rank - 1) == 0 || tensors.out.size(a.rank - 1) == 0)
    return true;  // nothing to load
  if (!rows_suit_tma(row_block(a, 0, 0, a.size(a.rank - 2)))) return false;
  if (a.rank == 3 && a.size(0) > 1 && !step_suits_tma(a.step(0) * size_of(a.dtype))) return false;
  return grouped_weights_suit_tma(tensors.b, tensors.b_scale);
}

bool grouped_weights_suit_tma(std::span<const TensorView> b, std::span<const TensorView> b_scale) {
  if (!rows_suit_tma(b[0]) || !equally_spaced(b) || !equally_spaced(b_scale)) return false;
  return b.size() == 1 || step_suits_tma(distance(b) * size_of(b[0].dtype));
}

Verdict sm90_grouped_verdict(const Sm90GroupedShape& shape, bool aligned, const Context& context) {
  const cuda::DeviceInfo& device = cuda::device_context(context).info();
  if (Verdict other = needs_sm90(device)) return other;
  if (!aligned) {
    return decline(
        "needs rows of a and b at multiples of 16 bytes, and b and b_scale of all groups equally far "
        "apart in ascending order, got others");
  }
  if (Verdict large = needs_small_sizes({shape.rows, shape.n, shape.k, shape.groups})) return large;
  constexpr std::int64_t kMostGroups = 1024;  // what a warp counts
  if (shape.groups > kMostGroups)
    return decline("needs at most 1024 groups, got " + std::to_string(shape.groups));
  // Wrong offsets may give every group all rows, and even then tiles are counted.
  const double tiles = static_cast<double>(shape.groups) * static_cast<double>(ceil_div(shape.rows, 8)) *
                       static_cast<double>(ceil_div(shape.n, 64));
  if (tiles > static_cast<double>(kMostCounted)) {
    return decline(fmt::format("needs fewer than 2^31 tiles of 8 by 64, got {}", tiles));
  }
  return accept;
}

void run_sm90_grouped(const Sm90GroupedShape& shape, GroupLayout layout, const GroupedTensors& tensors,
                      const Context& context) {
  if (shape.rows == 0 || shape.n == 0) return;
  if (shape.k == 0) return run_simt_grouped(simt_plan(shape.fp8), layout, tensors, context);  // zeros
  launch_sm90_grouped(plan_sm90_grouped(shape, cuda::device_context(context).info()), shape, layout, tensors,
                      context);
}

void launch_sm90_grouped(const Sm90GroupedKernel& plan, const Sm90GroupedShape& shape, GroupLayout layout,
                         const GroupedTensors& tensors, const Context& context) {
  const cuda::DeviceInfo& device = cuda::device_context(context).info();
  const jit::Kernel& kernel = jit::kernel(context, sm90_grouped_source, plan);
  if (context.compile_mode() == CompileMode::compile_only) return;

  const cuda::Current current(cuda::device_context(context));  // the driver encodes tensor maps for it
  const GemmPrefillConfig config = sm90_grouped_config(plan);
  GroupedGemmArgs args = arguments(shape, layout, tensors);
  args.queue = tile_queue(context);
  // Lines that go first spare what is in L2. Where weights exceed it many times over, they are slower.
  constexpr double kMostLeaving = 5e8;  // bytes
  args.weights_leave = weight_bytes(shape, expectation(shape)) < kMostLeaving;
  const TensorView& b = tensors.b[0];
  const Planes weights{shape.groups, shape.n, shape.k, b.step(0), distance(tensors.b)};
  if (config.swapped) {
    args.gemm.tokens = operand_map(b, weights, config.block_m, context);
    args.gemm.weights = operand_map(tensors.a, planes_of(tensors.a), config.block_n, context);
  } else {
    args.gemm.tokens = operand_map(tensors.a, planes_of(tensors.a), config.token_box(), context);
    args.gemm.weights = operand_map(b, weights, config.weight_box(), context);
    if (config.halves()) args.half_weights = operand_map(b, weights, config.block_n / 2, context);
    const TensorView& out = tensors.out;
    if (out.dtype == DType::bf16)
      map_result(args.gemm, spec_of(out.data, out.dtype, planes_of(out)), config, context);
  }
  const std::int64_t tiles =
      most_row_tiles(shape, plan.tile_m) * ceil_div(shape.n, plan.tile_n * config.cluster_n);
  const auto walkers =
      static_cast<unsigned>(std::min<std::int64_t>(tiles, device.num_sms / config.cluster_n));
  const auto cluster = static_cast<unsigned>(config.cluster_n);
  jit::launch(kernel,
              {.grid = {cluster * walkers},
               .block = {static_cast<unsigned>(config.threads())},
               .cluster = {cluster},
               .shared_bytes = config.shared_bytes(),
               .pdl = context.options().dependent_launch},
              context, args);
}

}  // namespace fathom
