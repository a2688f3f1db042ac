// Tensor maps: what the copy engine (TMA) of Hopper and later reads to find a tile of a tensor.
#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "cuda/device_context.hpp"
#include "cuda/driver_types.hpp"

namespace fathom::cuda {

/// A matrix or a stack of them, innermost axis first, as TMA counts. Tiles that reach beyond it read zeros.
struct TensorMapSpec {
  const void* data = nullptr;
  TensorMapType type = TensorMapType::u8;
  int rank = 2;                                // 1 to 5
  std::array<std::int64_t, 5> size{};          // in elements
  std::array<std::int64_t, 5> stride_bytes{};  // of axes 1 to rank - 1; the innermost axis is packed
  std::array<std::int64_t, 5> box{};           // a tile, in elements
  TensorMapSwizzle swizzle = TensorMapSwizzle::none;
  TensorMapL2Promotion promotion = TensorMapL2Promotion::bytes_256;
  bool stored = false;  // through: whole units of 16 bytes are written, so rows must not end within one
};

std::int64_t element_bytes(TensorMapType type);

/// Why TMA refuses a tensor. Without a text, so that a launch may ask.
struct TensorMapRefusal {
  std::string_view needs;
  std::int64_t got = 0;
  int axis = -1;  // -1: it is about no single one
  /// In the words of a Verdict: "needs a size of 1 to 2^32 of axis 1, got 0".
  std::string text() const;
};
/// Nothing if it takes the tensor.
std::optional<TensorMapRefusal> tensor_map_refusal(const TensorMapSpec& spec);

/// Throws InvalidArgument with the refusal, CudaError if the driver refuses nevertheless. No device work, no
/// allocation: cheap enough for every launch.
TensorMap encode_tensor_map(const Driver& driver, const TensorMapSpec& spec);

}  // namespace fathom::cuda
