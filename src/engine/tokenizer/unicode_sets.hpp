// Named sets of characters (\p{L}, \s, [:alpha:]) as PCRE2 writes them, at one version of Unicode.
#pragma once
#include <optional>
#include <string>
#include <string_view>

namespace fathom::text {

/// Text for the inside of a PCRE2 class: [items], or [^items] if negated.
struct CharSet {
  std::string items;
  bool negated = false;
};

/// The set that \p{name} means in a tokenizer.json: general categories, binary properties, scripts. Case,
/// spaces, '-' and '_' do not count. Nothing if the name is not known.
///
/// PCRE2 brings the tables of Unicode 14 or later; Hugging Face tokenizers those of Unicode 16. What 15 and
/// 16 added is put into the sets by name, so the tokens do not depend on the system's PCRE2.
std::optional<CharSet> unicode_property(std::string_view name);

/// The sets of \s \w \d \h in Oniguruma's syntax (\h is a hexadecimal digit); nothing for other letters.
/// `in_class`: between brackets, where \w means slightly less.
std::optional<CharSet> escape_set(char letter, bool in_class);

/// The set of [:name:]. Nothing if the name is not known.
std::optional<CharSet> posix_set(std::string_view name);

}  // namespace fathom::text
