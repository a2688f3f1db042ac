// The header of a safetensors file: 8 bytes of length, a JSON object, and the tensors' bytes.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fathom/core/tensor.hpp"

namespace fathom::safetensors {

struct Entry {
  std::string name;
  std::uint8_t type = 0;  ///< row of the format's list of dtypes
  int rank = 0;
  std::array<std::int64_t, kMaxRank> shape{};
  std::int64_t begin = 0;  ///< first byte, counted from the start of the file
  std::int64_t end = 0;

  /// "F8_E4M3"
  std::string_view type_name() const;
  /// Nothing if TensorView has no such dtype (for example F64).
  std::optional<DType> dtype() const;
};

/// How the format spells a dtype.
std::string_view type_name(DType dtype);

/// Reads the header at the start of `file`; the bytes after the header are never touched. Checks everything
/// the format promises: the header's length, offsets inside of the file, every byte in exactly one tensor,
/// sizes that agree with dtype and shape, no name twice. Throws FileError starting with `origin`.
std::vector<Entry> parse_header(std::span<const std::byte> file, std::string_view origin);

}  // namespace fathom::safetensors
