#include "ops/sm90.hpp"

#include <bit>
#include <string>

#include "cuda/device_context.hpp"

namespace fathom {

Verdict needs_sm90(const cuda::DeviceInfo& device) {
  if (device.sm() == 90) return accept;
  return decline("needs compute capability 9.0, got " + std::to_string(device.sm_major) + "." +
                 std::to_string(device.sm_minor));
}

Verdict needs_small_sizes(std::initializer_list<std::int64_t> sizes) {
  for (const std::int64_t size : sizes) {
    if (size > kMostCounted) return decline("needs sizes below 2^31, got " + std::to_string(size));
  }
  return accept;
}

TensorMap encode_map(const cuda::TensorMapSpec& spec, const Context& context) {
  return std::bit_cast<TensorMap>(cuda::encode_tensor_map(cuda::device_context(context).driver(), spec));
}

}  // namespace fathom
