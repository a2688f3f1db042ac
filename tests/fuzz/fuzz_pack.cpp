// Any bytes are either refused with a FileError or give a pack whose kernels lie inside of the file.
#include <cstdint>
#include <cstring>
#include <vector>

#include "core/sha256.hpp"
#include "fathom/core/error.hpp"
#include "jit/pack.hpp"
#include "jit/pack_format.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  std::vector<std::byte> pack(bytes.begin(), bytes.end());
  // The manifest's right SHA-256, which no mutation would find.
  if (size >= 48) {
    std::uint32_t length = 0;
    std::memcpy(&length, &pack[12], 4);
    if (length <= size - 48) {
      const std::string hash =
          fathom::jit::pack_format::from_hex(fathom::sha256(std::span(pack).subspan(48, length)));
      std::memcpy(&pack[16], hash.data(), hash.size());
    }
  }
  try {
    const auto parsed = fathom::jit::KernelPack::parse(pack, "fuzz");
    for (const auto& entry : parsed.entries()) {
      if (parsed.find(entry.key) != &entry) __builtin_trap();
      try {
        parsed.payload(entry);
      } catch (const fathom::FileError&) {
      }
    }
  } catch (const fathom::FileError&) {
  }
  return 0;
}
