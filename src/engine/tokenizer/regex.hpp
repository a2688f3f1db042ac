// A compiled pattern of a tokenizer.json and the search for its matches.
#pragma once
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/tokenizer/regex_syntax.hpp"

namespace fathom::text {

struct Piece {
  std::size_t begin;
  std::size_t end;
  bool is_match;
};

/// What a search needs to write to; one per thread, for any patterns.
class SearchScratch {
 public:
  SearchScratch();
  SearchScratch(SearchScratch&&) noexcept;
  ~SearchScratch();

 private:
  friend class Regex;
  struct State;
  std::unique_ptr<State> state_;
};

/// PCRE2 behind a value. Immutable; any number of threads may search with it.
class Regex {
 public:
  /// `pattern` as a tokenizer.json has it (Oniguruma's syntax). Throws PatternError.
  static Regex compile(std::string_view pattern);
  /// Matches exactly this text.
  static Regex literal(std::string_view text);

  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;
  ~Regex();

  /// Appends to `pieces` the matches in `subject` (valid UTF-8) and what lies between them, in order, so that
  /// they cover it. Empty matches are listed except directly behind another match; empty gaps are not.
  /// Throws InvalidArgument if the search hits a limit of PCRE2, naming the pattern and the place.
  void split(std::string_view subject, SearchScratch& scratch, std::vector<Piece>& pieces) const;

 private:
  struct Code;
  explicit Regex(std::unique_ptr<const Code> code);
  std::unique_ptr<const Code> code_;
};

}  // namespace fathom::text
