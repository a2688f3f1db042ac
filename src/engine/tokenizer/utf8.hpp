// UTF-8 step by step: what is valid, what is broken, and what may still become a character.
#pragma once
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace fathom {

struct Utf8Step {
  enum class Kind { character, broken, unfinished };
  Kind kind;
  char32_t point;    // if it is a character
  std::size_t size;  // bytes: of the character, of the longest broken part, or what is left of the text
};

/// The character or broken part that starts at text[at]; at < text.size(). A broken part ends where the first
/// byte stands that cannot continue it (Unicode's "maximal subpart", what Rust and the Web do).
Utf8Step utf8_step(std::string_view text, std::size_t at);

/// Where the first byte stands that is not UTF-8. Nothing if all of it is.
std::optional<std::size_t> find_broken_utf8(std::string_view text);

/// Appends `bytes` to `out` with U+FFFD for each broken part. Unless `finish`, the unfinished character at
/// the end is left out. Returns how many bytes were used.
std::size_t append_valid_utf8(std::string& out, std::string_view bytes, bool finish);

void append_utf8(std::string& out, char32_t point);

/// White_Space of Unicode (which has not changed since version 6.3).
bool is_white_space(char32_t point);

}  // namespace fathom
