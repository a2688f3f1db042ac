#include "engine/tokenizer/byte_level.hpp"

#include <array>

#include "engine/tokenizer/utf8.hpp"

namespace fathom::text {
namespace {

constexpr int kCharacters = 0x144;

struct Alphabet {
  std::array<char32_t, 256> character{};
  std::array<std::int16_t, kCharacters> byte{};
};

constexpr Alphabet make_alphabet() {
  Alphabet alphabet;
  for (auto& byte : alphabet.byte) byte = -1;
  char32_t other = 0x100;
  for (char32_t b = 0; b < 256; ++b) {
    const bool printable = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
    const char32_t c = printable ? b : other++;
    alphabet.character[b] = c;
    alphabet.byte[c] = static_cast<std::int16_t>(b);
  }
  return alphabet;
}
constexpr Alphabet kAlphabet = make_alphabet();

}  // namespace

char32_t byte_character(std::uint8_t byte) { return kAlphabet.character[byte]; }

std::optional<std::string> bytes_of(std::string_view content) {
  std::string bytes;
  for (std::size_t at = 0; at < content.size();) {
    const Utf8Step step = utf8_step(content, at);
    if (step.kind != Utf8Step::Kind::character || step.point >= kCharacters) return std::nullopt;
    const std::int16_t byte = kAlphabet.byte[step.point];
    if (byte < 0) return std::nullopt;
    bytes += static_cast<char>(byte);
    at += step.size;
  }
  return bytes;
}

}  // namespace fathom::text
