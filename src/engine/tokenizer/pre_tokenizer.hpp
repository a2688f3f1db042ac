// Cutting text into the pieces within which tokens are merged.
#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/tokenizer/regex.hpp"

namespace fathom::text {

/// What becomes of a match; the names are those of tokenizer.json.
enum class SplitBehavior : std::uint8_t {
  removed,
  isolated,
  merged_with_previous,
  merged_with_next,
  contiguous
};

/// One rule: every piece of the rule before is cut on its own.
struct SplitRule {
  std::optional<Regex> pattern;  // none: the rule only adds the space
  SplitBehavior behavior = SplitBehavior::isolated;
  bool invert = false;            // what lies between the matches counts as match
  bool add_prefix_space = false;  // puts a space before the piece first, unless it starts with one
};

/// What splitting writes to; one per thread.
struct SplitScratch {
  SearchScratch search;
  std::vector<std::vector<Piece>> pieces;  // per rule
  std::vector<std::string> prefixed;       // per rule
};

/// Applies `rules` in order and gives each piece that is not empty to `take`, which gets a view that is valid
/// during the call only.
void split_text(const std::vector<SplitRule>& rules, std::string_view text, SplitScratch& scratch,
                const std::function<void(std::string_view)>& take);

}  // namespace fathom::text
