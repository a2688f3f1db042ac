// The JSON of a tokenizer.json: its vocabulary and merges in tables, the small rest as a tree.
#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/json.hpp"
#include "engine/tokenizer/token_table.hpp"

namespace fathom::text {

/// The largest vocabularies in use have 260,000 tokens; an id far beyond is a broken file, not a reason to
/// allocate for it.
inline constexpr std::int64_t kMaxTokenId = (1 << 22) - 1;

struct TokenizerFile {
  std::optional<TokenTable> vocabulary;                                    // model.vocab
  std::optional<std::vector<std::pair<std::string, std::string>>> merges;  // model.merges, in order
  Json rest;                                                               // everything, without those two
};

/// Throws FileError for broken JSON, a token that comes twice or has no id up to kMaxTokenId or one that is
/// taken, and a merge that is not two tokens ("a b" or ["a", "b"]).
TokenizerFile parse_tokenizer_file(std::string_view text, const std::string& origin);

}  // namespace fathom::text
