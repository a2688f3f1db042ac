#include "fathom/core/problem.hpp"

#include <charconv>

namespace fathom::detail {

void append_field(std::string& out, std::string_view key, std::string_view value) {
  if (!out.empty()) out += ',';
  out += key;
  out += '=';
  out += value;
}

std::vector<std::pair<std::string, std::string>> split_problem(std::string_view op, std::string_view text) {
  const auto form = [&] {
    return InvalidArgument("'" + std::string(text) + "' is no problem of " + std::string(op) + "; expected " +
                           std::string(op) + ":key=value,key=value");
  };
  const auto colon = text.find(':');
  if (text.substr(0, colon) != op) throw form();
  std::vector<std::pair<std::string, std::string>> fields;
  if (colon == std::string_view::npos) return fields;
  std::string_view rest = text.substr(colon + 1);
  while (!rest.empty()) {
    const auto comma = rest.find(',');
    const std::string_view field = rest.substr(0, comma);
    const auto equals = field.find('=');
    if (equals == std::string_view::npos || equals == 0) throw form();
    for (const auto& [key, value] : fields) {
      if (key != field.substr(0, equals)) continue;
      throw InvalidArgument(std::string(op) + ": '" + key + "' is given twice, in '" + std::string(text) +
                            "'");
    }
    fields.emplace_back(field.substr(0, equals), field.substr(equals + 1));
    rest = comma == std::string_view::npos ? std::string_view{} : rest.substr(comma + 1);
  }
  return fields;
}

std::int64_t parse_integer(std::string_view op, std::string_view key, std::string_view value) {
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
  if (error != std::errc{} || end != value.data() + value.size()) bad_field(op, key, value);
  return number;
}

void bad_field(std::string_view op, std::string_view key, std::string_view value) {
  throw InvalidArgument(std::string(op) + ": '" + std::string(key) + "' cannot be '" + std::string(value) +
                        "'");
}

void unknown_key(std::string_view op, std::string_view key, std::string_view known) {
  throw InvalidArgument(std::string(op) + ": a problem has no '" + std::string(key) + "'; it has " +
                        std::string(known));
}

}  // namespace fathom::detail
