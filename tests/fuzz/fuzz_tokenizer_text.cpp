// Any text is either refused because it is not UTF-8 or comes back from its tokens byte for byte.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "engine/tokenizer/utf8.hpp"
#include "fathom/core/error.hpp"
#include "fathom/engine/tokenizer.hpp"

namespace {

void check(const fathom::Tokenizer& tokenizer, std::string_view text, bool exact) {
  const bool valid = !fathom::find_broken_utf8(text).has_value();
  std::vector<std::int32_t> tokens;
  try {
    tokens = tokenizer.encode(text, false);
    if (!valid) std::abort();
  } catch (const fathom::InvalidArgument&) {
    if (valid) std::abort();
    return;
  }
  const std::string decoded = tokenizer.decode(tokens, false);
  if (exact && decoded != text) std::abort();
  fathom::TokenStream stream(tokenizer, false);
  std::string streamed;
  for (const std::int32_t token : tokens) {
    const std::string piece = stream.push(token);
    if (fathom::find_broken_utf8(piece)) std::abort();
    streamed += piece;
  }
  if (streamed + stream.finish() != decoded) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const auto bundled = fathom::Tokenizer::load(FATHOM_SOURCE_DIR "/models/tiny-dsv32");
  static const auto second = fathom::Tokenizer::load(FATHOM_SOURCE_DIR "/tests/engine/data/second");
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  check(bundled, text, true);
  check(second, text, false);  // some of its added tokens swallow the spaces beside them
  return 0;
}
