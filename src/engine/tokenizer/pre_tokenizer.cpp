#include "engine/tokenizer/pre_tokenizer.hpp"

#include <algorithm>

namespace fathom::text {
namespace {

// Joins what belongs together, in place. A piece whose is_match stays set is dropped later; only `removed`
// leaves any. Empty matches count as matches here: they decide what is joined.
void apply(SplitBehavior behavior, std::vector<Piece>& pieces) {
  if (behavior == SplitBehavior::removed) return;
  const bool backwards = behavior == SplitBehavior::merged_with_next;
  if (backwards) std::reverse(pieces.begin(), pieces.end());
  std::size_t kept = 0;
  bool previous = false;
  for (const Piece piece : pieces) {
    bool join = false;
    if (behavior == SplitBehavior::contiguous) {
      join = piece.is_match == previous;
    } else if (behavior != SplitBehavior::isolated) {
      join = piece.is_match && !previous;
    }
    previous = piece.is_match;
    if (join && kept > 0) {
      Piece& last = pieces[kept - 1];
      last = {std::min(last.begin, piece.begin), std::max(last.end, piece.end), false};
    } else {
      pieces[kept++] = {piece.begin, piece.end, false};
    }
  }
  pieces.resize(kept);
  if (backwards) std::reverse(pieces.begin(), pieces.end());
}

void cut(const std::vector<SplitRule>& rules, std::size_t index, std::string_view text, SplitScratch& scratch,
         const std::function<void(std::string_view)>& take) {
  if (index == rules.size()) return take(text);
  const SplitRule& rule = rules[index];
  if (rule.add_prefix_space && text[0] != ' ') {
    text = scratch.prefixed[index].assign(" ").append(text);
  }
  if (!rule.pattern) return cut(rules, index + 1, text, scratch, take);
  std::vector<Piece>& pieces = scratch.pieces[index];
  pieces.clear();
  rule.pattern->split(text, scratch.search, pieces);
  if (rule.invert) {
    for (Piece& piece : pieces) piece.is_match = !piece.is_match;
  }
  apply(rule.behavior, pieces);
  for (const Piece& piece : pieces) {
    if (!piece.is_match && piece.begin < piece.end) {
      cut(rules, index + 1, text.substr(piece.begin, piece.end - piece.begin), scratch, take);
    }
  }
}

}  // namespace

void split_text(const std::vector<SplitRule>& rules, std::string_view text, SplitScratch& scratch,
                const std::function<void(std::string_view)>& take) {
  if (text.empty()) return;
  scratch.pieces.resize(rules.size());
  scratch.prefixed.resize(rules.size());
  cut(rules, 0, text, scratch, take);
}

}  // namespace fathom::text
