// The regular expressions of a tokenizer.json, rewritten for PCRE2.
#pragma once
#include <stdexcept>
#include <string>
#include <string_view>

namespace fathom::text {

/// A pattern that cannot be used; the message says why, without naming file or pattern.
class PatternError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Hugging Face tokenizers matches with Oniguruma. Both engines read most patterns alike, but not all:
///
///   \s \w \b \h \p{..} [:..:]  other sets of characters          written out, see unicode_sets.hpp
///   x{1,3}+  x{3}?  x{,3}      repeats, not possessive or lazy   rewritten
///   [a[bc]]  [a-z&&[^b]]       sets inside sets                  rewritten with lookahead
///   (?m:.)  \uHHHH  \O \N      other spelling                    rewritten
///   (?i:ss)                    also matches one letter (ß)       refused, as is whatever is not known here
///
/// Groups become non-capturing; back references are refused. Throws PatternError.
struct Pcre2Pattern {
  std::string text;
  /// Has a lazy repeat or an atomic group, which the JIT compiler of PCRE2 10.42 gets wrong in rare cases:
  /// "(?>.+?\w[\n ])X" in "Kqs .q\nX" begins at byte 3 instead of 2, "(?>[^s].*|B)\D" finds "BB" in "c0BB".
  bool needs_interpreter = false;
};
Pcre2Pattern to_pcre2(std::string_view pattern);

}  // namespace fathom::text
