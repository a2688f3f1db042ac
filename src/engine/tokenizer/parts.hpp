// What a tokenizer.json holds, checked and ready to use.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/tokenizer/added_tokens.hpp"
#include "engine/tokenizer/bpe.hpp"
#include "engine/tokenizer/pre_tokenizer.hpp"
#include "engine/tokenizer/token_table.hpp"

namespace fathom::text {

struct TokenizerParts {
  AddedTokens added;
  std::vector<SplitRule> rules;
  Bpe bpe;
  /// What encode() gives with special tokens; kText stands for the tokens of the text.
  std::vector<std::int32_t> pattern{kText};
  static constexpr std::int32_t kText = -1;
  bool has_template = false;  // the pattern is that of tokenizer.json

  TokenTable tokens;
  std::vector<bool> special;              // by id
  std::string all_bytes;                  // of every token, in the order of the ids
  std::vector<std::uint32_t> first_byte;  // by id, one more than ids
  std::optional<std::int32_t> begin_token, end_token;

  std::int32_t size() const { return static_cast<std::int32_t>(special.size()); }
  std::string_view bytes(std::int32_t id) const {
    const auto i = static_cast<std::size_t>(id);
    return std::string_view(all_bytes).substr(first_byte[i], first_byte[i + 1] - first_byte[i]);
  }
};

/// Reads the text of a tokenizer.json and, unless it is empty, of a tokenizer_config.json. Throws FileError.
TokenizerParts read_parts(std::string_view text, const std::string& origin, std::string_view config,
                          const std::string& config_origin);

}  // namespace fathom::text
