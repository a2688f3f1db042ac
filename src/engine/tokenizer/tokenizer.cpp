#include "fathom/engine/tokenizer.hpp"

#include <fmt/format.h>

#include "core/file.hpp"
#include "engine/tokenizer/parts.hpp"
#include "engine/tokenizer/utf8.hpp"
#include "fathom/core/error.hpp"

namespace fathom {
namespace {

constexpr std::int64_t kMaxFileBytes = std::int64_t{256} << 20;
constexpr std::size_t kMaxTextBytes = std::size_t{1} << 30;  // places in a text are 32 bits wide

void check_text(std::string_view text) {
  if (text.size() > kMaxTextBytes) {
    throw InvalidArgument(
        fmt::format("tokenizer: the text must have at most {} bytes, has {}", kMaxTextBytes, text.size()));
  }
  if (const auto at = find_broken_utf8(text)) {
    throw InvalidArgument(fmt::format("tokenizer: the text is not UTF-8: byte 0x{:02x} at offset {}",
                                      static_cast<std::uint8_t>(text[*at]), *at));
  }
}

}  // namespace

Tokenizer::Tokenizer(std::unique_ptr<const text::TokenizerParts> parts) : parts_(std::move(parts)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::load(const std::filesystem::path& directory_or_file) {
  std::error_code error;
  const bool directory = std::filesystem::is_directory(directory_or_file, error);
  const auto file = directory ? directory_or_file / "tokenizer.json" : directory_or_file;
  const auto config = file.parent_path() / "tokenizer_config.json";
  const std::string text = read_file(file, kMaxFileBytes);
  const bool configured = std::filesystem::exists(config, error);
  const std::string config_text = configured ? read_file(config, kMaxFileBytes) : std::string();
  return Tokenizer(std::make_unique<const text::TokenizerParts>(
      text::read_parts(text, file.string(), config_text, config.string())));
}

Tokenizer Tokenizer::from_json(std::string_view text, const std::string& origin) {
  return Tokenizer(std::make_unique<const text::TokenizerParts>(text::read_parts(text, origin, {}, {})));
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text, bool add_special_tokens) const {
  check_text(text);
  std::vector<std::int32_t> tokens;
  text::SplitScratch scratch;
  text::PieceCache cache;
  const auto piece = [&](std::string_view bytes) { parts_->bpe.encode(bytes, cache, tokens); };
  const auto plain = [&](std::string_view part) { text::split_text(parts_->rules, part, scratch, piece); };
  const auto added = [&](std::int32_t token) { tokens.push_back(token); };
  const auto whole = [&] { parts_->added.split(text, plain, added); };
  if (!add_special_tokens) {
    whole();
    return tokens;
  }
  for (const std::int32_t part : parts_->pattern) {
    if (part == text::TokenizerParts::kText) {
      whole();
    } else {
      tokens.push_back(part);
    }
  }
  return tokens;
}

std::string Tokenizer::decode(std::span<const std::int32_t> tokens, bool skip_special) const {
  std::string bytes;
  for (const std::int32_t token : tokens) {
    if (!skip_special || !is_special(token)) bytes += token_bytes(token);
  }
  std::string out;
  append_valid_utf8(out, bytes, true);
  return out;
}

std::string_view Tokenizer::token_bytes(std::int32_t token) const {
  if (token < 0)
    throw InvalidArgument(fmt::format("tokenizer: a token id must not be negative, got {}", token));
  return token < parts_->size() ? parts_->bytes(token) : std::string_view();
}

std::optional<std::int32_t> Tokenizer::find_token(std::string_view content) const {
  return parts_->tokens.find(content);
}

bool Tokenizer::is_special(std::int32_t token) const {
  return token >= 0 && token < parts_->size() && parts_->special[static_cast<std::size_t>(token)];
}

std::int64_t Tokenizer::vocab_size() const { return parts_->size(); }
std::optional<std::int32_t> Tokenizer::begin_token() const { return parts_->begin_token; }
std::optional<std::int32_t> Tokenizer::end_token() const { return parts_->end_token; }

std::string TokenStream::push(std::int32_t token) {
  if (!skip_special_ || !tokenizer_->is_special(token)) pending_ += tokenizer_->token_bytes(token);
  std::string out;
  pending_.erase(0, append_valid_utf8(out, pending_, false));
  return out;
}

std::string TokenStream::finish() {
  std::string out;
  append_valid_utf8(out, pending_, true);
  pending_.clear();
  return out;
}

}  // namespace fathom
