#include "cuda/tensor_map.hpp"

#include <limits>

namespace fathom::cuda {
namespace {

// The limits of cuTensorMapEncodeTiled, for interleave NONE.
constexpr std::int64_t kAlignment = 16;
constexpr std::int64_t kMostStride = std::int64_t{1} << 40;
constexpr std::int64_t kMostSize = std::int64_t{1} << 32;
constexpr std::int64_t kMostBox = 256;

std::int64_t swizzle_bytes(TensorMapSwizzle swizzle) {
  switch (swizzle) {
    case TensorMapSwizzle::bytes_32:
      return 32;
    case TensorMapSwizzle::bytes_64:
      return 64;
    case TensorMapSwizzle::bytes_128:
      return 128;
    case TensorMapSwizzle::none:
      break;
  }
  return std::numeric_limits<std::int64_t>::max();
}

}  // namespace

std::int64_t element_bytes(TensorMapType type) {
  switch (type) {
    case TensorMapType::u8:
      return 1;
    case TensorMapType::u16:
    case TensorMapType::f16:
    case TensorMapType::bf16:
      return 2;
    case TensorMapType::u32:
    case TensorMapType::i32:
    case TensorMapType::f32:
      return 4;
    case TensorMapType::u64:
    case TensorMapType::i64:
    case TensorMapType::f64:
      return 8;
  }
  return 0;
}

std::string TensorMapRefusal::text() const {
  return "needs " + std::string(needs) + (axis < 0 ? "" : " of axis " + std::to_string(axis)) + ", got " +
         std::to_string(got);
}

std::optional<TensorMapRefusal> tensor_map_refusal(const TensorMapSpec& spec) {
  using Refusal = TensorMapRefusal;
  if (spec.rank < 1 || spec.rank > 5) return Refusal{"1 to 5 axes", spec.rank};
  const auto address = reinterpret_cast<std::uintptr_t>(spec.data);
  if (address == 0 || address % kAlignment != 0)
    return Refusal{"an address that is a multiple of 16", static_cast<std::int64_t>(address)};
  const std::int64_t bytes = element_bytes(spec.type);
  for (int axis = 0; axis < spec.rank; ++axis) {
    const auto a = static_cast<std::size_t>(axis);
    if (spec.size[a] < 1 || spec.size[a] > kMostSize)
      return Refusal{"a size of 1 to 2^32", spec.size[a], axis};
    if (spec.box[a] < 1 || spec.box[a] > kMostBox)
      return Refusal{"a tile of 1 to 256 elements", spec.box[a], axis};
    if (axis == 0) continue;
    const std::int64_t stride = spec.stride_bytes[a];
    if (stride % kAlignment != 0) return Refusal{"a stride that is a multiple of 16 bytes", stride, axis};
    if (stride < 0 || stride >= kMostStride) return Refusal{"a stride of 0 to 2^40 bytes", stride, axis};
  }
  if (spec.stored && spec.size[0] * bytes % kAlignment != 0)
    return Refusal{"rows of whole 16 bytes to store through", spec.size[0] * bytes};
  const std::int64_t tile = spec.box[0] * bytes;
  if (tile % kAlignment != 0) return Refusal{"a tile whose rows are a multiple of 16 bytes", tile};
  if (tile > swizzle_bytes(spec.swizzle))
    return Refusal{"a tile whose rows have no more bytes than the swizzle", tile};
  return std::nullopt;
}

TensorMap encode_tensor_map(const Driver& driver, const TensorMapSpec& spec) {
  if (const auto refusal = tensor_map_refusal(spec)) throw InvalidArgument("tensor map: " + refusal->text());
  TensorMap map{};
  std::uint64_t sizes[5];
  std::uint64_t strides[5];
  std::uint32_t box[5];
  const std::uint32_t steps[5] = {1, 1, 1, 1, 1};
  for (std::size_t axis = 0; axis < 5; ++axis) {
    sizes[axis] = static_cast<std::uint64_t>(spec.size[axis]);
    box[axis] = static_cast<std::uint32_t>(spec.box[axis]);
    if (axis > 0) strides[axis - 1] = static_cast<std::uint64_t>(spec.stride_bytes[axis]);
  }
  strides[4] = 0;
  const Result status = driver.cuTensorMapEncodeTiled(
      &map, spec.type, static_cast<std::uint32_t>(spec.rank), const_cast<void*>(spec.data), sizes, strides,
      box, steps, TensorMapInterleave::none, spec.swizzle, spec.promotion, TensorMapFill::zeros);
  driver.check(status, "cuTensorMapEncodeTiled", "encoding a tensor map");
  return map;
}

}  // namespace fathom::cuda
