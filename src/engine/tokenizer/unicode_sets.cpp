#include "engine/tokenizer/unicode_sets.hpp"

#include <algorithm>
#include <array>
#include <utility>

namespace fathom::text {
namespace {

struct Row {
  std::string_view name;   // lower case, without separators
  std::string_view items;  // for the inside of a class
};

constexpr Row kRows[] = {
#include "engine/tokenizer/unicode_additions.inc"
};

// Long names of the general categories, as in Unicode's PropertyValueAliases.
constexpr std::pair<std::string_view, std::string_view> kLongNames[] = {
    {"letter", "l"},
    {"number", "n"},
    {"punctuation", "p"},
    {"punct", "p"},
    {"symbol", "s"},
    {"mark", "m"},
    {"separator", "z"},
    {"other", "c"},
    {"uppercaseletter", "lu"},
    {"lowercaseletter", "ll"},
    {"titlecaseletter", "lt"},
    {"modifierletter", "lm"},
    {"otherletter", "lo"},
    {"nonspacingmark", "mn"},
    {"spacingmark", "mc"},
    {"enclosingmark", "me"},
    {"decimalnumber", "nd"},
    {"letternumber", "nl"},
    {"othernumber", "no"},
    {"connectorpunctuation", "pc"},
    {"dashpunctuation", "pd"},
    {"openpunctuation", "ps"},
    {"closepunctuation", "pe"},
    {"initialpunctuation", "pi"},
    {"finalpunctuation", "pf"},
    {"otherpunctuation", "po"},
    {"mathsymbol", "sm"},
    {"currencysymbol", "sc"},
    {"modifiersymbol", "sk"},
    {"othersymbol", "so"},
    {"spaceseparator", "zs"},
    {"lineseparator", "zl"},
    {"paragraphseparator", "zp"},
    {"control", "cc"},
    {"format", "cf"},
    {"privateuse", "co"},
    {"unassigned", "cn"},
};

constexpr std::string_view kWhiteSpace =
    "\\x{9}-\\x{d} \\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}";

// Oniguruma counts these among \w outside of classes, not inside.
constexpr const char* kLatin1Numbers = "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}";

std::string items(std::initializer_list<std::string_view> names) {
  std::string all;
  for (const std::string_view name : names) {
    const auto* row =
        std::find_if(std::begin(kRows), std::end(kRows), [&](const Row& r) { return r.name == name; });
    if (row != std::end(kRows)) all += row->items;
  }
  return all;
}

}  // namespace

std::optional<CharSet> unicode_property(std::string_view name) {
  std::string key;
  for (const char c : name) {
    if (c == ' ' || c == '-' || c == '_') continue;
    key += c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  }
  for (const auto& [long_name, short_name] : kLongNames) {
    if (key == long_name) key = short_name;
  }
  // What a newer Unicode assigns leaves the sets of unassigned characters, so these are complements.
  if (key == "c") return CharSet{items({"l", "m", "n", "p", "s", "z"}), true};
  if (key == "cn") return CharSet{items({"l", "m", "n", "p", "s", "z", "cc", "cf", "co"}) + "\\p{Cs}", true};
  if (key == "whitespace" || key == "space") return CharSet{std::string(kWhiteSpace)};
  std::string found = items({key});
  if (found.empty()) return std::nullopt;
  return CharSet{std::move(found)};
}

std::optional<CharSet> escape_set(char letter, bool in_class) {
  switch (letter) {
    case 's':
      return CharSet{std::string(kWhiteSpace)};
    case 'd':
      return CharSet{items({"nd"})};
    case 'w':
      return CharSet{items({"alphabetic", "m", "nd", "pc"}) + (in_class ? "" : kLatin1Numbers)};
    case 'h':
      return CharSet{"0-9a-fA-F"};
    default:
      return std::nullopt;
  }
}

std::optional<CharSet> posix_set(std::string_view name) {
  if (name == "alpha") return CharSet{items({"alphabetic"})};
  if (name == "digit") return escape_set('d', true);
  if (name == "alnum") return CharSet{items({"alphabetic", "nd"})};
  if (name == "upper") return CharSet{items({"uppercase"})};
  if (name == "lower") return CharSet{items({"lowercase"})};
  if (name == "punct") return CharSet{items({"p", "s"})};
  if (name == "space") return escape_set('s', true);
  if (name == "word") return escape_set('w', true);
  if (name == "xdigit") return escape_set('h', true);
  return std::nullopt;
}

}  // namespace fathom::text
