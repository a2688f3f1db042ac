#include "engine/tokenizer/added_tokens.hpp"

#include <algorithm>

#include "engine/tokenizer/regex.hpp"
#include "engine/tokenizer/utf8.hpp"

namespace fathom::text {
namespace {

// Start of the character that ends at text[end - 1].
std::size_t character_before(std::string_view text, std::size_t end) {
  std::size_t at = end - 1;
  while (at > 0 && (static_cast<std::uint8_t>(text[at]) & 0xc0) == 0x80) --at;
  return at;
}

bool is_word(std::string_view character) {
  static const Regex pattern = Regex::compile(R"([\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{200c}\x{200d}])");
  SearchScratch scratch;
  std::vector<Piece> pieces;
  pattern.split(character, scratch, pieces);
  return pieces.front().is_match;
}

}  // namespace

void AddedTokenMatcher::insert(const AddedToken& token) {
  std::size_t node = 0;
  for (const char byte : token.content) {
    auto& next = nodes_[node].next;
    const auto place = std::lower_bound(next.begin(), next.end(), std::pair(byte, std::int32_t{-1}));
    if (place != next.end() && place->first == byte) {
      node = static_cast<std::size_t>(place->second);
    } else {
      next.emplace(place, byte, static_cast<std::int32_t>(nodes_.size()));
      node = nodes_.size();
      nodes_.emplace_back();
    }
  }
  nodes_[node].token = static_cast<std::int32_t>(tokens_.size());
  starts_[static_cast<std::uint8_t>(token.content[0])] = true;
  tokens_.push_back(token);
}

std::int32_t AddedTokenMatcher::longest(std::string_view subject, std::size_t at) const {
  std::int32_t found = -1;
  std::size_t node = 0;
  for (; at < subject.size(); ++at) {
    const auto& next = nodes_[node].next;
    const auto place = std::lower_bound(next.begin(), next.end(), std::pair(subject[at], std::int32_t{-1}));
    if (place == next.end() || place->first != subject[at]) break;
    node = static_cast<std::size_t>(place->second);
    if (nodes_[node].token >= 0) found = nodes_[node].token;
  }
  return found;
}

void AddedTokenMatcher::split(std::string_view subject, const std::function<void(std::string_view)>& text,
                              const std::function<void(std::int32_t)>& token) const {
  std::size_t done = 0;
  std::size_t at = 0;
  while (at < subject.size()) {
    if (!starts_[static_cast<std::uint8_t>(subject[at])]) {
      ++at;
      continue;
    }
    const std::int32_t index = longest(subject, at);
    if (index < 0) {
      ++at;
      continue;
    }
    const AddedToken& found = tokens_[static_cast<std::size_t>(index)];
    std::size_t begin = at;
    std::size_t end = at + found.content.size();
    at = end;  // the search goes on behind the token itself, even if its flags discard or widen it
    if (found.single_word) {
      const std::size_t before = begin > 0 ? character_before(subject, begin) : 0;
      if (begin > 0 && is_word(subject.substr(before, begin - before))) continue;
      if (end < subject.size() && is_word(subject.substr(end, utf8_step(subject, end).size))) continue;
    }
    if (found.lstrip) {
      while (begin > done) {
        const std::size_t before = character_before(subject, begin);
        if (!is_white_space(utf8_step(subject, before).point)) break;
        begin = before;
      }
    }
    if (found.rstrip) {
      while (end < subject.size() && is_white_space(utf8_step(subject, end).point))
        end += utf8_step(subject, end).size;
    }
    if (done < begin) text(subject.substr(done, begin - done));
    token(found.id);
    done = end;
  }
  if (done < subject.size()) text(subject.substr(done));
}

void AddedTokens::split(std::string_view subject, const std::function<void(std::string_view)>& text,
                        const std::function<void(std::int32_t)>& token) const {
  const auto rest = [&](std::string_view piece) { second_.split(piece, text, token); };
  first_.split(subject, rest, token);
}

}  // namespace fathom::text
