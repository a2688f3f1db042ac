// Any text is either refused with a FileError or gives rows that exist and names without a folder.
#include <cstdint>
#include <cstdlib>

#include "engine/loader/index.hpp"
#include "fathom/core/error.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const auto index = fathom::safetensors::parse_index({reinterpret_cast<const char*>(data), size}, "fuzz");
    for (const auto& [name, row] : index.tensors) {
      if (index.shards.at(static_cast<std::size_t>(row)).find('/') != std::string::npos) std::abort();
    }
  } catch (const fathom::FileError&) {
  }
  return 0;
}
