// Text to tokens and back, by the rules of a tokenizer.json (byte-level BPE).
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fathom {
namespace text {
struct TokenizerParts;
}

/// A tokenizer read from a tokenizer.json. It gives the tokens that Hugging Face tokenizers gives for the
/// same file; a file with parts it does not know is refused when it is loaded. Const functions may be called
/// from several threads at once.
class Tokenizer {
 public:
  /// Reads DIR/tokenizer.json, or that file itself. tokenizer_config.json beside it, if there is one, names
  /// the begin and end tokens; with add_bos_token it also puts the begin token before a text if
  /// tokenizer.json has no template. Throws FileError naming the file and the key.
  static Tokenizer load(const std::filesystem::path& directory_or_file);
  /// From the text of a tokenizer.json. Errors start with `origin`.
  static Tokenizer from_json(std::string_view text, const std::string& origin);

  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  /// The tokens of a UTF-8 text. `add_special_tokens` adds what the file's template, or the config in its
  /// place, adds (usually the begin token); special tokens that the text spells out are recognised either
  /// way. Throws InvalidArgument naming the byte offset if the text is not UTF-8, or if a pattern hits a
  /// match limit.
  std::vector<std::int32_t> encode(std::string_view text, bool add_special_tokens) const;

  /// The text of some tokens, as valid UTF-8: bytes that form no character become U+FFFD. Ids that have no
  /// token (models pad their vocabulary) give nothing. Throws InvalidArgument if an id is negative.
  std::string decode(std::span<const std::int32_t> tokens, bool skip_special) const;

  /// The bytes one token stands for, not necessarily whole characters. Empty if the id has no token.
  std::string_view token_bytes(std::int32_t token) const;
  /// The token that is written like this in the file ("Ġthe", "<|end_of_text|>").
  std::optional<std::int32_t> find_token(std::string_view content) const;
  bool is_special(std::int32_t token) const;
  /// One more than the largest id.
  std::int64_t vocab_size() const;

  /// The token that encode() puts first, else the bos_token of tokenizer_config.json.
  std::optional<std::int32_t> begin_token() const;
  /// The eos_token of tokenizer_config.json.
  std::optional<std::int32_t> end_token() const;

 private:
  explicit Tokenizer(std::unique_ptr<const text::TokenizerParts> parts);
  std::unique_ptr<const text::TokenizerParts> parts_;
};

/// Turns tokens into text one by one. Half a character is held back until it is whole; the pieces joined are
/// what decode() gives for all the tokens.
class TokenStream {
 public:
  /// `tokenizer` must outlive the stream.
  explicit TokenStream(const Tokenizer& tokenizer, bool skip_special = true)
      : tokenizer_(&tokenizer), skip_special_(skip_special) {}

  /// The text that has become certain with this token; often all of it, sometimes empty.
  std::string push(std::int32_t token);
  /// What is left: U+FFFD if half a character is, else nothing. The stream then starts anew.
  std::string finish();

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_;
  std::string pending_;  // the beginning of a character
};

}  // namespace fathom
