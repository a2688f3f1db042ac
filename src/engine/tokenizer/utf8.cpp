#include "engine/tokenizer/utf8.hpp"

#include <cstdint>
#include <cstring>

namespace fathom {
namespace {

std::uint8_t byte_at(std::string_view text, std::size_t at) { return static_cast<std::uint8_t>(text[at]); }

// Length of the run of ASCII that starts at `at`, eight bytes at a time.
std::size_t ascii_run(std::string_view text, std::size_t at) {
  const std::size_t begin = at;
  for (; at + 8 <= text.size(); at += 8) {
    std::uint64_t word;
    std::memcpy(&word, text.data() + at, 8);
    if ((word & 0x8080808080808080u) != 0) break;
  }
  while (at < text.size() && byte_at(text, at) < 0x80) ++at;
  return at - begin;
}

}  // namespace

Utf8Step utf8_step(std::string_view text, std::size_t at) {
  using Kind = Utf8Step::Kind;
  const std::uint8_t first = byte_at(text, at);
  if (first < 0x80) return {Kind::character, first, 1};
  if (first < 0xc2 || first > 0xf4) return {Kind::broken, 0, 1};
  const std::size_t size = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  char32_t point = first & (0x7fu >> size);
  for (std::size_t i = 1; i < size; ++i) {
    if (at + i == text.size()) return {Kind::unfinished, 0, i};
    const std::uint8_t next = byte_at(text, at + i);
    // The second byte also rules out overlong forms, surrogates and what lies beyond U+10FFFF.
    const std::uint8_t least = i > 1 ? 0x80 : first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    const std::uint8_t most = i > 1 ? 0xbf : first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    if (next < least || next > most) return {Kind::broken, 0, i};
    point = (point << 6) | (next & 0x3fu);
  }
  return {Kind::character, point, size};
}

std::optional<std::size_t> find_broken_utf8(std::string_view text) {
  std::size_t at = 0;
  while ((at += ascii_run(text, at)) < text.size()) {
    const Utf8Step step = utf8_step(text, at);
    if (step.kind != Utf8Step::Kind::character) return at;
    at += step.size;
  }
  return std::nullopt;
}

std::size_t append_valid_utf8(std::string& out, std::string_view bytes, bool finish) {
  std::size_t at = 0;
  while (at < bytes.size()) {
    if (const std::size_t run = ascii_run(bytes, at); run > 0) {
      out.append(bytes, at, run);
      at += run;
      continue;
    }
    const Utf8Step step = utf8_step(bytes, at);
    if (step.kind == Utf8Step::Kind::unfinished && !finish) break;
    if (step.kind == Utf8Step::Kind::character) {
      out.append(bytes, at, step.size);
    } else {
      append_utf8(out, 0xfffd);
    }
    at += step.size;
  }
  return at;
}

void append_utf8(std::string& out, char32_t point) {
  const auto put = [&](char32_t value) { out += static_cast<char>(value); };
  if (point < 0x80) {
    put(point);
  } else if (point < 0x800) {
    put(0xc0 | point >> 6);
    put(0x80 | (point & 0x3f));
  } else if (point < 0x10000) {
    put(0xe0 | point >> 12);
    put(0x80 | (point >> 6 & 0x3f));
    put(0x80 | (point & 0x3f));
  } else {
    put(0xf0 | point >> 18);
    put(0x80 | (point >> 12 & 0x3f));
    put(0x80 | (point >> 6 & 0x3f));
    put(0x80 | (point & 0x3f));
  }
}

bool is_white_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0d) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
         c == 0x3000;
}

}  // namespace fathom
