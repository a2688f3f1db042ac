// What the entries for Hopper share.
#pragma once
#include <cstdint>
#include <initializer_list>
#include <limits>

#include "cuda/driver.hpp"
#include "cuda/tensor_map.hpp"
#include "layout/gemm.cuh"
#include "ops/dispatch.hpp"

namespace fathom {

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// Declines on a device of another architecture.
Verdict needs_sm90(const cuda::DeviceInfo& device);

/// Sizes up to here, and a tile further, count in 32 bits.
inline constexpr std::int64_t kMostCounted = std::numeric_limits<std::int32_t>::max() - 512;
Verdict needs_small_sizes(std::initializer_list<std::int64_t> sizes);

/// Whether the copy engine takes this distance between rows or planes.
constexpr bool step_suits_tma(std::int64_t bytes) {
  return bytes % 16 == 0 && bytes > 0 && bytes < std::int64_t{1} << 40;
}

/// As kernels take it. The context's device is current.
TensorMap encode_map(const cuda::TensorMapSpec& spec, const Context& context);

}  // namespace fathom
