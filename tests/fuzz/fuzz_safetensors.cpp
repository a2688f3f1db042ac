// Any bytes are either refused with a FileError or give tensors that lie inside of the file.
#include <cstdint>
#include <cstdlib>

#include "engine/loader/safetensors.hpp"
#include "fathom/core/error.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const std::span<const std::uint8_t> bytes(data, size);
    for (const auto& entry : fathom::safetensors::parse_header(std::as_bytes(bytes), "fuzz")) {
      if (entry.begin < 8 || entry.begin > entry.end || entry.end > static_cast<std::int64_t>(size))
        std::abort();
      std::int64_t count = 1;
      for (int axis = 0; axis < entry.rank; ++axis) count *= entry.shape[static_cast<std::size_t>(axis)];
      if (entry.dtype() && count * fathom::size_of(*entry.dtype()) != entry.end - entry.begin) std::abort();
    }
  } catch (const fathom::FileError&) {
  }
  return 0;
}
