#include "ops/sm90_mqa.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "cuda/device_context.hpp"
#include "jit/kernel_cache.hpp"
#include "ops/sm90.hpp"

namespace fathom {
namespace {

// The map of u8 data with these sizes, innermost first: boxes of `planes` times `rows` rows of 128 bytes,
// zeros outside.
TensorMap encode(const TensorView& tensor, std::initializer_list<std::int64_t> sizes,
                 std::initializer_list<std::int64_t> strides, std::int64_t rows, std::int64_t planes,
                 const Context& context) {
  cuda::TensorMapSpec spec{.data = tensor.data,
                           .type = cuda::TensorMapType::u8,
                           .rank = static_cast<int>(sizes.size()),
                           .size = {},
                           .stride_bytes = {},
                           .box = {128, rows, planes, 1, 1},
                           .swizzle = cuda::TensorMapSwizzle::bytes_128};
  std::ranges::copy(sizes, spec.size.begin());
  std::ranges::copy(strides, spec.stride_bytes.begin() + 1);
  for (std::size_t axis = 1; axis < sizes.size(); ++axis) {
    if (spec.size[axis] == 1) spec.stride_bytes[axis] = 128;  // never used, and must be valid
  }
  return encode_map(spec, context);
}

}  // namespace

namespace {
// Those that the matrix instructions have, also for two tokens at a time up to 64.
std::int64_t padded(std::int64_t heads) {
  constexpr std::int64_t kSizes[] = {8, 16, 32, 48, 64, 96, 128};
  return *std::ranges::lower_bound(kSizes, std::min<std::int64_t>(heads, 128));
}
}  // namespace

Sm90MqaPlan sm90_mqa_plan(const Sm90MqaShape& shape) {
  return {
      static_cast<std::int32_t>(padded(shape.heads)), shape.ragged, static_cast<std::int32_t>(shape.head_dim),
      shape.ragged ? 64 : static_cast<std::int32_t>(shape.page),
      !shape.ragged && shape.next_n <= 2 && shape.heads <= 64 ? static_cast<std::int32_t>(shape.next_n) : 0};
}

bool suits_sm90_mqa(const TensorView& q, const TensorView& weights, const TensorView& keys) {
  const std::int64_t heads = q.size(q.rank - 2);
  return suits_bulk_copies(q) && suits_bulk_copies(keys) &&
         (padded(heads) != heads || suits_bulk_copies(weights));
}

std::int64_t sm90_mqa_tokens(std::int64_t heads) { return heads <= 64 ? 8 : 4; }

jit::Source sm90_mqa_source(const Sm90MqaPlan& plan) {
  const bool usual = plan.head_dim == 128 && plan.page == 64;
  if (plan.decode != 0) {
    return {fmt::format("paged_mqa_logits.sm90_n{}_h{}{}", plan.decode, plan.heads,
                        usual ? "" : fmt::format("_p{}_d{}", plan.page, plan.head_dim)),
            fmt::format("#include \"sm90/mqa_decode.cuh\"\n"
                        "extern \"C\" __global__ void __launch_bounds__({}, 1)\n"
                        "fathom_kernel(const __grid_constant__ fathom::Sm90MqaKernel args) {{\n"
                        "  static_assert(sizeof(fathom::Sm90MqaKernel) == {});\n"
                        "  fathom::sm90_mqa_decode<{}, {}, {}, {}>(args);\n}}\n",
                        sm90_mqa_decode_threads(plan.decode), sizeof(Sm90MqaKernel), plan.heads,
                        plan.head_dim, plan.page, plan.decode)};
  }
  const std::string function =
      plan.ragged ? fmt::format("sm90_mqa_ragged<{}, {}>", plan.heads, plan.head_dim)
                  : fmt::format("sm90_mqa<{}, {}, {}>", plan.heads, plan.head_dim, plan.page);
  return {fmt::format("{}.sm90_h{}{}", plan.ragged ? "mqa_logits" : "paged_mqa_logits", plan.heads,
                      usual ? "" : fmt::format("_p{}_d{}", plan.page, plan.head_dim)),
          fmt::format("#include \"sm90/{}.cuh\"\n"
                      "extern \"C\" __global__ void __launch_bounds__(fathom::kSm90MqaThreads, 1)\n"
                      "fathom_kernel(const __grid_constant__ fathom::Sm90MqaKernel args) {{\n"
                      "  static_assert(sizeof(fathom::Sm90MqaKernel) == {});\n"
                      "  fathom::{}(args);\n}}\n",
                      plan.ragged ? "mqa_ragged" : "mqa", sizeof(Sm90MqaKernel), function)};
}

Sm90MqaStages sm90_mqa_stages(const Sm90MqaShape& shape, const cuda::DeviceInfo& device) {
  if (const std::int32_t decode = sm90_mqa_plan(shape).decode; decode != 0) {
    const int stages = sm90_mqa_decode_stages(decode);
    return {stages, 2,
            sm90_mqa_shared_bytes(static_cast<int>(shape.requests),
                                  sm90_mqa_rows(decode, static_cast<int>(padded(shape.heads))), stages, 2)};
  }
  for (const int q_stages : {2, 1}) {
    for (const int stages : {16, 8}) {  // 8 are as much as is under way in the memory's latency
      const int bytes = sm90_mqa_shared_bytes(
          static_cast<int>(shape.requests),
          sm90_mqa_rows(static_cast<int>(shape.next_n), static_cast<int>(padded(shape.heads))), stages,
          q_stages);
      if (bytes + kSm90MqaStaticBytes <= device.shared_bytes_per_block) return {stages, q_stages, bytes};
    }
  }
  return {};
}

Verdict sm90_mqa_verdict(const Sm90MqaShape& shape, const cuda::DeviceInfo& device) {
  if (Verdict other = needs_sm90(device)) return other;
  if (!shape.f8) return decline("needs q of f8e4m3, got f32");
  if (shape.head_dim != 32 && shape.head_dim != 64 && shape.head_dim != 128)
    return decline("needs a head_dim of 32, 64 or 128, got " + std::to_string(shape.head_dim));
  if (shape.heads > 128) return decline("needs up to 128 heads, got " + std::to_string(shape.heads));
  if (!shape.aligned)
    return decline("needs q, weights and keys at multiples of 16 bytes with such strides, got others");
  if (shape.requests > kSm90MqaRequests) {
    return decline(fmt::format(
        "needs up to {} {}, got {}", kSm90MqaRequests,
        shape.ragged ? "groups of " + std::to_string(shape.next_n) + " tokens" : "requests", shape.requests));
  }
  if (shape.next_n > 1024 || sm90_mqa_stages(shape, device).stages == 0)
    return decline("needs a next_n that fits shared memory, got " + std::to_string(shape.next_n));
  constexpr std::int64_t kMostColumns = std::int64_t{1} << 30;
  if (shape.columns > kMostColumns)
    return decline("needs up to 2^30 columns of logits, got " + std::to_string(shape.columns));
  return accept;
}

void run_sm90_mqa(const Sm90MqaShape& shape, Sm90MqaKernel& args, const TensorView& keys, const TensorView& q,
                  const Context& context) {
  const Sm90MqaPlan plan = sm90_mqa_plan(shape);
  const jit::Kernel& kernel = jit::kernel(context, sm90_mqa_source, plan);
  if (context.compile_mode() == CompileMode::compile_only) return;
  const cuda::DeviceInfo& device = cuda::device_context(context).info();
  const cuda::Current current(cuda::device_context(context));  // the driver encodes tensor maps for it
  const Sm90MqaStages stages = sm90_mqa_stages(shape, device);
  args.requests = static_cast<int>(shape.requests);
  args.next_n = static_cast<int>(shape.next_n);
  args.stages = stages.stages;
  args.q_stages = stages.q_stages;
  if (shape.ragged) {
    args.keys = encode(keys, {shape.head_dim, keys.size(0)}, {keys.step(0)}, kMqaKeys, 1, context);
    args.q =
        encode(q, {shape.head_dim, shape.heads, q.size(0)}, {q.step(1), q.step(0)}, plan.heads, 1, context);
  } else {
    args.keys = encode(keys, {shape.head_dim, shape.page, keys.size(0)}, {shape.head_dim, keys.step(0)},
                       std::min<std::int64_t>(shape.page, kMqaKeys), 1, context);
    args.q = encode(q, {shape.head_dim, shape.heads, shape.next_n, shape.requests},
                    {q.step(2), q.step(1), q.step(0)}, plan.heads, shape.next_n, context);
  }
  jit::launch(kernel,
              {.grid = {static_cast<unsigned>(device.num_sms)},
               .block = {static_cast<unsigned>(plan.decode != 0 ? sm90_mqa_decode_threads(plan.decode)
                                                                : kSm90MqaThreads)},
               .shared_bytes = stages.shared_bytes},
              context, args);
}

bool suits_bulk_copies(const TensorView& tensor) {
  if (reinterpret_cast<std::uintptr_t>(tensor.data) % 16 != 0 || tensor.count() == 0) return false;
  for (int axis = 0; axis + 1 < tensor.rank; ++axis) {
    const std::int64_t bytes = tensor.step(axis) * size_of(tensor.dtype);
    if (tensor.size(axis) > 1 && (bytes % 16 != 0 || bytes <= 0 || bytes >= std::int64_t{1} << 40))
      return false;
  }
  return true;
}

}  // namespace fathom
