#include "engine/tokenizer/regex_syntax.hpp"

#include <fmt/format.h>

#include <optional>
#include <variant>
#include <vector>

#include "core/json.hpp"
#include "engine/tokenizer/unicode_sets.hpp"
#include "engine/tokenizer/utf8.hpp"

namespace fathom::text {
namespace {

constexpr int kMaxDepth = 32;
constexpr std::size_t kNone = std::string::npos;

[[noreturn]] void refuse(std::string_view what) {
  throw PatternError(fmt::format("{} is not supported", printable(what)));
}

bool is_ascii_letter(char32_t c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool is_ascii_digit(char32_t c) { return c >= '0' && c <= '9'; }
char32_t lower(char32_t c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; }

std::string escaped(char32_t point) {
  if (is_ascii_letter(point) || is_ascii_digit(point)) return std::string(1, static_cast<char>(point));
  return fmt::format("\\x{{{:x}}}", static_cast<std::uint32_t>(point));
}

std::string outside_class(const CharSet& set) {
  return fmt::format("[{}{}]", set.negated ? "^" : "", set.items);
}

// The union of what one class lists: plain items, and expressions for one character that are no plain items.
struct Union {
  std::string items;
  std::vector<std::string> others;

  void add(const CharSet& set) {
    if (set.negated) {
      others.push_back(outside_class(set));
    } else {
      items += set.items;
    }
  }
  std::string expression(bool negated) const {
    if (others.empty()) return outside_class({items, negated});
    std::string either;
    for (const std::string& other : others) either += (either.empty() ? "" : "|") + other;
    if (negated) return fmt::format("(?:(?!{}){})", either, items.empty() ? "(?s:.)" : "[^" + items + "]");
    return items.empty() ? fmt::format("(?:{})", either) : fmt::format("(?:[{}]|{})", items, either);
  }
};

class Translator {
 public:
  explicit Translator(std::string_view pattern) : in_(pattern) {}

  Pcre2Pattern run() {
    groups_.push_back({.begin = 0, .body = 0, .caseless = false, .repeatable = false});
    while (at_ < in_.size()) term();
    if (groups_.size() > 1) throw PatternError("a ')' is missing");
    return {std::move(out_), interpreted_};
  }

 private:
  struct Group {
    std::size_t begin;  // in out_
    std::size_t body;
    bool caseless;
    bool repeatable;
  };
  using Escape = std::variant<char32_t, CharSet>;  // a character, or a set of them

  bool accept(std::string_view text) {
    if (!in_.substr(at_).starts_with(text)) return false;
    at_ += text.size();
    return true;
  }
  bool peek(std::string_view text) const { return in_.substr(at_).starts_with(text); }
  char32_t next() {
    if (at_ == in_.size()) throw PatternError("it ends too early");
    const Utf8Step step = utf8_step(in_, at_);
    if (step.kind != Utf8Step::Kind::character) throw PatternError("it is not UTF-8");
    at_ += step.size;
    return step.point;
  }
  std::optional<int> number() {
    const std::size_t begin = at_;
    int value = 0;
    while (at_ < in_.size() && is_ascii_digit(static_cast<unsigned char>(in_[at_]))) {
      value = value * 10 + (in_[at_++] - '0');
      if (value > 65535) refuse("a repeat count above 65535");
    }
    return begin == at_ ? std::nullopt : std::optional(value);
  }
  std::string_view until(std::string_view end) {
    const std::size_t stop = in_.find(end, at_);
    if (stop == std::string_view::npos) throw PatternError(fmt::format("a '{}' is missing", end));
    const std::string_view text = in_.substr(at_, stop - at_);
    at_ = stop + end.size();
    return text;
  }
  bool caseless() const { return groups_.back().caseless; }

  // Something that a quantifier may follow.
  void atom(std::string_view text) {
    atom_ = out_.size();
    out_ += text;
    previous_ = 0;
  }
  // Something that stands between characters.
  void assertion(std::string_view text) {
    out_ += text;
    atom_ = kNone;
    previous_ = 0;
  }

  void term() {
    const char32_t c = next();
    switch (c) {
      case '\\':
        return escape();
      case '[':
        return atom(char_class(1));
      case '(':
        return open();
      case ')':
        return close();
      case '|':
        return assertion("|");
      case '^':
        return assertion("^");
      case '$':
        return assertion("$");
      case '.':
        return atom(".");
      case '*':
        return repeat("*");
      case '+':
        return repeat("+");
      case '?':
        return repeat("?");
      case '{':
        return interval();
      default:
        return literal(c);
    }
  }

  void literal(char32_t c) {
    check_caseless(c);
    const char32_t before = previous_;
    atom(escaped(c));
    if (!caseless()) return;
    // Letters that one character stands for when case is ignored: ß ﬀ ﬁ ﬂ ﬆ.
    previous_ = lower(c);
    for (const std::u32string_view pair : {U"ss", U"ff", U"fi", U"fl", U"st"}) {
      if (before == pair[0] && previous_ == pair[1]) {
        refuse(
            fmt::format("'{}{}' with case ignored", static_cast<char>(before), static_cast<char>(previous_)));
      }
    }
  }
  void check_caseless(char32_t c) const {
    if (caseless() && c > 0x7f) refuse("a character beyond ASCII with case ignored");
  }

  void open() {
    if (groups_.size() > 200) refuse("nesting groups deeper than 200");
    const bool at_start = out_.size() == groups_.back().body;
    bool ignore = caseless();
    std::string head = "(?:";
    bool repeatable = true;
    if (peek("*")) refuse("'(*'");
    if (accept("?")) {
      if (accept("#")) return static_cast<void>(until(")"));
      if (const auto look = lookaround()) {
        head = *look;
        repeatable = false;
      } else if (accept(">")) {
        head = "(?>";
        interpreted_ = true;
      } else if (accept("<")) {
        until(">");  // a name
      } else if (!accept(":")) {
        const std::string flags = option_letters(ignore);
        if (accept(")")) {
          if (!at_start) refuse("'(?i)' in the middle of a group");
          assertion("(?" + flags + ")");
          groups_.back().caseless = ignore;
          groups_.back().body = out_.size();
          return;
        }
        if (!accept(":")) refuse(fmt::format("'(?{}'", in_.substr(at_, 1)));
        head = "(?" + flags + ":";
      }
    }
    const std::size_t begin = out_.size();
    assertion(head);
    groups_.push_back({.begin = begin, .body = out_.size(), .caseless = ignore, .repeatable = repeatable});
  }
  std::optional<std::string> lookaround() {
    for (const std::string_view sign : {"=", "!", "<=", "<!"}) {
      if (accept(sign)) return fmt::format("(?{}", sign);
    }
    return std::nullopt;
  }
  // Oniguruma's m is PCRE2's s; its '^' and '$' always mean lines.
  std::string option_letters(bool& ignore) {
    std::string flags;
    bool on = true;
    while (true) {
      if (accept("-")) {
        on = false;
        flags += '-';
      } else if (accept("i")) {
        ignore = on;
        flags += 'i';
      } else if (accept("m")) {
        flags += 's';
      } else {
        return flags;
      }
    }
  }
  void close() {
    if (groups_.size() == 1) throw PatternError("there is a ')' too many");
    const Group group = groups_.back();
    groups_.pop_back();
    assertion(")");
    if (group.repeatable) atom_ = group.begin;
  }

  void repeat(std::string_view sign) {
    if (atom_ == kNone) throw PatternError(fmt::format("there is nothing to repeat before '{}'", sign));
    out_ += sign;
    if (accept("+")) {
      out_ += '+';
      interpreted_ |= out_[atom_] == '(';
    } else if (accept("?")) {
      out_ += '?';
      interpreted_ = true;
    }
    after_repeat();
  }
  void interval() {
    const std::size_t begin = at_;
    const auto low = number();
    const bool comma = accept(",");
    const auto high = comma ? number() : low;
    if ((!low && !high) || !accept("}")) {  // no interval: the brace stands for itself
      at_ = begin;
      return literal('{');
    }
    if (atom_ == kNone) throw PatternError("there is nothing to repeat before '{'");
    out_ += fmt::format("{{{}{}{}}}", low.value_or(0), comma ? "," : "",
                        comma && high ? std::to_string(*high) : std::string());
    if (comma && accept("?")) {
      out_ += '?';
      interpreted_ = true;
    } else if (peek("+") || peek("?")) {  // repeats what was repeated
      out_.insert(atom_, "(?:");
      out_ += ')';
      out_ += static_cast<char>(next());
    }
    after_repeat();
  }
  void after_repeat() {
    if (peek("*") || peek("+") || peek("?")) refuse("a repeat of a repeat");
    if (peek("{") && at_ + 1 < in_.size() &&
        (is_ascii_digit(static_cast<unsigned char>(in_[at_ + 1])) || in_[at_ + 1] == ','))
      refuse("a repeat of a repeat");
    atom_ = kNone;
    previous_ = 0;
  }

  void escape() {
    const std::string word = escape_set('w', false)->items;
    if (accept("b")) {
      return assertion(fmt::format("(?:(?<=[{0}])(?![{0}])|(?<![{0}])(?=[{0}]))", word));
    }
    if (accept("B")) {
      return assertion(fmt::format("(?:(?<=[{0}])(?=[{0}])|(?<![{0}])(?![{0}]))", word));
    }
    for (const std::string_view anchor : {"A", "z", "Z"}) {
      if (accept(anchor)) return assertion("\\" + std::string(anchor));
    }
    if (accept("R")) {
      interpreted_ = true;
      return atom("(?>\\r\\n|[\\n-\\r\\x{85}\\x{2028}\\x{2029}])");
    }
    if (accept("N")) return atom("[^\\n]");
    if (accept("O")) return atom("(?s:.)");
    const Escape what = escaped_item(false);
    if (const auto* point = std::get_if<char32_t>(&what)) return literal(*point);
    atom(outside_class(std::get<CharSet>(what)));
  }

  // After the backslash: what may stand inside and outside a class.
  Escape escaped_item(bool in_class) {
    const char32_t c = next();
    switch (c) {
      case 'n':
        return U'\n';
      case 't':
        return U'\t';
      case 'r':
        return U'\r';
      case 'f':
        return U'\f';
      case 'v':
        return U'\v';
      case 'a':
        return U'\a';
      case 'e':
        return char32_t{0x1b};
      case 'x':
        return accept("{") ? code_point(until("}"), 1, 8) : ascii(hex_digits(1, 2));
      case 'u':
        return code_point(hex_digits(4, 4), 4, 4);
      case 'p':
      case 'P':
        return property(c == 'P');
      default:
        break;
    }
    if (c > 0x7f || (!is_ascii_letter(c) && !is_ascii_digit(c))) return c;
    const char letter = static_cast<char>(lower(c));
    auto set = escape_set(letter, in_class);
    if (!set || is_ascii_digit(c)) refuse(fmt::format("'\\{}'", static_cast<char>(c)));
    if (caseless() && letter == 'w') refuse("'\\w' with case ignored");
    set->negated = c < 'a';
    return *set;
  }
  std::string_view hex_digits(std::size_t least, std::size_t most) {
    const std::size_t begin = at_;
    while (at_ < in_.size() && at_ - begin < most && std::isxdigit(static_cast<unsigned char>(in_[at_])) != 0)
      ++at_;
    if (at_ - begin < least) throw PatternError("a hexadecimal number is too short");
    return in_.substr(begin, at_ - begin);
  }
  static char32_t code_point(std::string_view digits, std::size_t least, std::size_t most) {
    char32_t value = 0;
    for (const char digit : digits) {
      if (std::isxdigit(static_cast<unsigned char>(digit)) == 0)
        throw PatternError("a hexadecimal number has other digits");
      value = value * 16 + static_cast<char32_t>(digit <= '9' ? digit - '0' : (digit | 32) - 'a' + 10);
    }
    if (digits.size() < least || digits.size() > most || value > 0x10ffff ||
        (value >= 0xd800 && value < 0xe000)) {
      throw PatternError(fmt::format("'{}' is no code point", digits));
    }
    return value;
  }
  // \xHH means a byte, which is a character only below 0x80.
  static char32_t ascii(std::string_view digits) {
    const char32_t value = code_point(digits, 1, 2);
    if (value > 0x7f) refuse(fmt::format("the byte '\\x{}'", digits));
    return value;
  }
  CharSet property(bool negated) {
    if (caseless()) refuse("'\\p' with case ignored");
    if (!accept("{")) refuse("'\\p' without braces");
    if (accept("^")) negated = !negated;
    const std::string_view name = until("}");
    auto set = unicode_property(name);
    if (!set) refuse(fmt::format("'\\p{{{}}}'", name.substr(0, 40)));
    set->negated ^= negated;
    return *set;
  }

  // After the '['. Returns an expression for one character.
  std::string char_class(int depth) {
    if (depth > kMaxDepth) refuse("nesting classes deeper than 32");
    const bool negated = accept("^");
    // Such a set holds ß, and then Oniguruma lets the class match "ss", too.
    if (negated && caseless()) refuse("a negated class with case ignored");
    if (peek("]")) refuse("an empty class or a ']' in front of a class");
    Union current;
    std::vector<std::string> parts;  // the left sides of '&&'
    bool first = true;
    while (!accept("]")) {
      if (accept("&&")) {
        if (current.items.empty() && current.others.empty()) refuse("an empty side of '&&'");
        parts.push_back(current.expression(false));
        current = {};
        first = true;
        continue;
      }
      class_item(current, depth, first);
      first = false;
    }
    if (parts.empty()) return current.expression(negated);
    if (current.items.empty() && current.others.empty()) refuse("an empty side of '&&'");
    std::string all;
    for (const std::string& part : parts) all += fmt::format("(?={})", part);
    all += current.expression(false);
    return negated ? fmt::format("(?:(?!{})(?s:.))", all) : fmt::format("(?:{})", all);
  }
  void class_item(Union& current, int depth, bool first) {
    if (accept("[:")) return current.add(posix());
    if (accept("[")) return current.others.push_back(char_class(depth + 1));
    if (peek("-") && !first && !peek("-]")) refuse("a '-' in the middle of a class (write '\\-')");
    const Escape low = accept("\\") ? escaped_item(true) : Escape(next());
    if (const auto* set = std::get_if<CharSet>(&low)) {
      if (peek("-") && !peek("-]")) refuse("a '-' after a set of characters (write '\\-')");
      if (set->negated && caseless()) refuse("a negated set with case ignored");
      return current.add(*set);
    }
    const char32_t begin = std::get<char32_t>(low);
    check_caseless(begin);
    current.items += escaped(begin);
    if (!peek("-") || peek("-]")) return;
    at_ += 1;
    if (peek("[") || peek("-") || peek("&&")) refuse("a '-' before a set of characters (write '\\-')");
    const Escape high = accept("\\") ? escaped_item(true) : Escape(next());
    const auto* end = std::get_if<char32_t>(&high);
    if (end == nullptr || *end < begin)
      throw PatternError("a range of characters has no end or runs backwards");
    check_caseless(*end);
    current.items += "-" + escaped(*end);
  }
  CharSet posix() {
    if (caseless()) refuse("'[:..:]' with case ignored");
    const bool negated = accept("^");
    const std::string_view name = until(":]");
    auto set = posix_set(name);
    if (!set) refuse(fmt::format("'[:{}:]'", name.substr(0, 40)));
    set->negated ^= negated;
    return *set;
  }

  std::string_view in_;
  std::size_t at_ = 0;
  std::string out_;
  std::size_t atom_ = kNone;  // where in out_ the thing begins that a quantifier would repeat
  char32_t previous_ = 0;     // the literal just before, if case is ignored
  bool interpreted_ = false;
  std::vector<Group> groups_;
};

}  // namespace

Pcre2Pattern to_pcre2(std::string_view pattern) { return Translator(pattern).run(); }

}  // namespace fathom::text
