#include "ops/sm90_gemm.hpp"

#include <fmt/format.h>

#include "cuda/device_context.hpp"
#include "jit/kernel_cache.hpp"
#include "layout/gemm_few.cuh"
#include "ops/tile_queues.hpp"

namespace fathom {
namespace {

GemmDecodeConfig decode_config(const Sm90GemmKernel& kernel) {
  return {.fp8 = kernel.fp8 != 0,
          .tokens = kernel.tile_m,
          .groups = kernel.groups,
          .stage_blocks = kernel.stage_blocks,
          .stages = kernel.stages,
          .most_segments = kernel.most_segments,
          .pairs = kernel.pairs != 0};
}

GemmFewConfig few_config(const Sm90GemmKernel& kernel) {
  return {.rows = kernel.tile_n, .tokens = kernel.tile_m, .as_wgmma = kernel.pairs != 0};
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

jit::Source sm90_gemm_source(const Sm90GemmKernel& kernel) {
  const char* type = kernel.fp8 != 0 ? "f8e4m3" : "bf16";
  const char* fp8 = kernel.fp8 != 0 ? "true" : "false";
  const auto text = [&](const std::string& name, const char* what, const char* args, std::size_t args_bytes,
                        const std::string& config, int shared, int blocks = 1) {
    return jit::Source{
        name, fmt::format("#include \"sm90/{0}.cuh\"\n"
                          "namespace fathom {{\n"
                          "constexpr {1};\n"
                          "static_assert(sizeof({2}) == {3} && kConfig.shared_bytes() == {4});\n"
                          "}}\n"
                          "extern \"C\" __global__ void __launch_bounds__(fathom::kConfig.threads(), {5})\n"
                          "fathom_kernel(const __grid_constant__ fathom::{2} args) {{\n"
                          "  fathom::{0}<fathom::kConfig>(args);\n"
                          "}}\n",
                          what, config, args, args_bytes, shared, blocks)};
  };
  if (kernel.kind == Sm90GemmKind::few) {
    return text(fmt::format("gemm.sm90_few_bf16_m{}n{}{}", kernel.tile_m, kernel.tile_n,
                            kernel.pairs != 0 ? "p" : ""),
                "gemm_few", "GemmFewArgs", sizeof(GemmFewArgs),
                fmt::format("GemmFewConfig kConfig{{.rows = {}, .tokens = {}, .as_wgmma = {}}}",
                            kernel.tile_n, kernel.tile_m, kernel.pairs != 0),
                few_config(kernel).shared_bytes(), few_config(kernel).blocks());
  }
  if (kernel.kind == Sm90GemmKind::decode) {
    return text(
        fmt::format("gemm.sm90_decode_{}_m{}n{}b{}s{}x{}{}", type, kernel.tile_m, kernel.tile_n,
                    kernel.stage_blocks, kernel.stages, kernel.most_segments, kernel.pairs != 0 ? "p" : ""),
        "gemm_decode", "GemmArgs", sizeof(GemmArgs),
        fmt::format("GemmDecodeConfig kConfig{{.fp8 = {}, .tokens = {}, .groups = {}, "
                    ".stage_blocks = {}, .stages = {}, .most_segments = {}, .pairs = {}}}",
                    fp8, kernel.tile_m, kernel.groups, kernel.stage_blocks, kernel.stages,
                    kernel.most_segments, kernel.pairs != 0),
        decode_config(kernel).shared_bytes());
  }
  return text(fmt::format("gemm.sm90_prefill_{}{}_m{}n{}s{}c{}x{}", type,
                          kernel.row_scales ? "_rows"
                          : kernel.shares   ? "_shared"
                                            : "",
                          kernel.tile_m, kernel.tile_n, kernel.stages, kernel.cluster_m, kernel.cluster_n),
              "gemm_prefill", "GemmArgs", sizeof(GemmArgs),
              fmt::format("GemmPrefillConfig kConfig{{.fp8 = {}, .block_m = {}, .block_n = {}, .stages = {}, "
                          ".cluster_m = {}, .cluster_n = {}, .row_scales = {}, .shares = {}}}",
                          fp8, kernel.tile_m, kernel.tile_n, kernel.stages, kernel.cluster_m,
                          kernel.cluster_n, kernel.row_scales != 0, kernel.shares != 0),
              prefill_config(kernel).shared_bytes());
}

int sm90_gemm_shared_bytes(const Sm90GemmKernel& kernel) {
  if (kernel.kind == Sm90GemmKind::few) return few_config(kernel).shared_bytes();
  if (kernel.kind == Sm90GemmKind::decode) return decode_config(kernel).shared_bytes();
  return prefill_config(kernel).shared_bytes();
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
    if (kernel.kind != Sm90GemmKind::prefill && ceil_div(shape.m, kernel.tile_m) > kMostTiles)
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
  if (config.stores_whole()) args.out = encode_map(spec, context);
  args.out_mapped = 1;
}

namespace {

void run_few(const Sm90GemmPlan& plan, const jit::Kernel& kernel, const Sm90GemmShape& shape,
             const Sm90GemmTensors& tensors, const Context& context) {
  const GemmFewConfig config = few_config(plan.kernel);
  const GemmFewArgs args{.tokens = tensors.a.as<const std::uint16_t>(),
                         .weights = tensors.b.as<const std::uint16_t>(),
                         .token_row = tensors.a.step(0),
                         .weight_row = tensors.b.step(0),
                         .out_data = tensors.out.data,
                         .out_row = tensors.out.step(0),
                         .m = static_cast<int>(shape.m),
                         .n = static_cast<int>(shape.n),
                         .k = static_cast<int>(shape.k),
                         .out_f32 = tensors.out.dtype == DType::f32,
                         .accumulate = tensors.accumulate,
                         .overlapped = context.options().dependent_launch,
                         .gated = tensors.gate.given,
                         .gate_factor = tensors.gate.factor,
                         .gate = tensors.gate.scale.given() ? tensors.gate.scale.as<const float>() : nullptr,
                         .gate_row = tensors.gate.scale.given() ? tensors.gate.scale.step(0) : 0};
  jit::launch(kernel,
              {.grid = {static_cast<unsigned>(config.segments * ceil_div(shape.n, config.rows)),
                        static_cast<unsigned>(ceil_div(shape.m, config.tokens))},
               .block = {static_cast<unsigned>(config.threads())},
               .cluster = {static_cast<unsigned>(config.segments)},
               .shared_bytes = config.shared_bytes(),
               .pdl = args.overlapped != 0},
              context, args);
}

}  // namespace

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
  if (plan.kernel.kind == Sm90GemmKind::few) return run_few(plan, kernel, shape, tensors, context);

  const cuda::Current current(cuda::device_context(context));  // the driver encodes tensor maps for it
  const bool decode = plan.kernel.kind == Sm90GemmKind::decode;
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
  args.weights_leave = plan.weights_leave;
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
