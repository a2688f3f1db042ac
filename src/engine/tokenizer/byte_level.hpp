// The byte-level alphabet: one printable character for each byte, so that a vocabulary can be written as
// text.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace fathom::text {

/// The character that stands for a byte: itself if printable in Latin-1, else one of U+0100 to U+0143.
char32_t byte_character(std::uint8_t byte);

/// The bytes that a token's characters stand for; nothing if one of them stands for no byte.
std::optional<std::string> bytes_of(std::string_view content);

}  // namespace fathom::text
