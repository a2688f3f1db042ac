// Any text is either refused with a FileError of one line or gives a tokenizer that encodes and streams.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "fathom/core/error.hpp"
#include "fathom/engine/tokenizer.hpp"

namespace {

void use(const fathom::Tokenizer& tokenizer) {
  const auto tokens = tokenizer.encode("a b\n\n 12é", true);
  fathom::TokenStream stream(tokenizer, false);
  std::string streamed;
  for (const std::int32_t token : tokens) {
    if (token < 0 || token >= tokenizer.vocab_size()) std::abort();
    streamed += stream.push(token);
  }
  if (streamed + stream.finish() != tokenizer.decode(tokens, false)) std::abort();
}

void check_message(std::string_view message) {
  if (message.find('\n') != message.npos || message.size() > 1000) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    use(fathom::Tokenizer::from_json({reinterpret_cast<const char*>(data), size}, "fuzz"));
  } catch (const fathom::FileError& error) {
    check_message(error.what());
  } catch (const fathom::InvalidArgument& error) {  // a pattern that gives up on the text
    check_message(error.what());
  }
  return 0;
}
