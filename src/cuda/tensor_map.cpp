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

std::string needs(const std::string& what, std::int64_t got) {
  return "needs " + what + ", got " + std::to_string(got);
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

std::optional<std::string> tensor_map_refusal(const TensorMapSpec& spec) {
  if (spec.rank < 1 || spec.rank > 5) return needs("1 to 5 axes", spec.rank);
  const auto misaligned = reinterpret_cast<std::uintptr_t>(spec.data) % kAlignment;
  if (spec.data == nullptr) return "needs an address, got a null pointer";
  if (misaligned != 0) {
    return needs("an address that is a multiple of 16", static_cast<std::int64_t>(misaligned)) +
           " beyond one";
  }
  const std::int64_t bytes = element_bytes(spec.type);
  for (int axis = 0; axis < spec.rank; ++axis) {
    const auto a = static_cast<std::size_t>(axis);
    const std::string name = " of axis " + std::to_string(axis);
    if (spec.size[a] < 1 || spec.size[a] > kMostSize)
      return needs("a size of 1 to 2^32" + name, spec.size[a]);
    if (spec.box[a] < 1 || spec.box[a] > kMostBox)
      return needs("a tile of 1 to 256 elements" + name, spec.box[a]);
    if (axis == 0) continue;
    const std::int64_t stride = spec.stride_bytes[a];
    if (stride % kAlignment != 0) return needs("a stride that is a multiple of 16 bytes" + name, stride);
    if (stride < 0 || stride >= kMostStride) return needs("a stride of 0 to 2^40 bytes" + name, stride);
  }
  if (spec.stored && spec.size[0] * bytes % kAlignment != 0)
    return needs("rows of whole 16 bytes to store through", spec.size[0] * bytes);
  if (spec.box[0] * bytes % kAlignment != 0) {
    return needs("a tile whose rows are a multiple of 16 bytes", spec.box[0] * bytes);
  }
  if (spec.box[0] * bytes > swizzle_bytes(spec.swizzle)) {
    return needs("a tile whose rows are no longer than the swizzle", spec.box[0] * bytes) + " bytes";
  }
  return std::nullopt;
}

TensorMap encode_tensor_map(const Driver& driver, const TensorMapSpec& spec) {
  if (const auto refusal = tensor_map_refusal(spec)) throw InvalidArgument("tensor map: " + *refusal);
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
