// What the reader and the writer of kernel packs share; the layout is in pack.hpp.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace fathom::jit::pack_format {

inline constexpr std::string_view kMagic = "FTHMPACK";
inline constexpr std::uint32_t kVersion = 1;

inline std::int64_t align64(std::int64_t value) { return (value + 63) / 64 * 64; }

inline std::string from_hex(std::string_view hex) {
  const auto digit = [](char c) { return c <= '9' ? c - '0' : c - 'a' + 10; };
  std::string bytes;
  for (std::size_t i = 0; i < hex.size(); i += 2)
    bytes += static_cast<char>(digit(hex[i]) << 4 | digit(hex[i + 1]));
  return bytes;
}

}  // namespace fathom::jit::pack_format
