// The one spelling of a problem: "op:key=value,key=value". Log, test name, bench row and bug report all use
// it.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "fathom/core/error.hpp"
#include "fathom/core/tensor.hpp"

// A Problem is a plain struct of integers, bools, DTypes and enums that
//   - names its op:      static constexpr std::string_view op = "rms_norm";
//   - lists its fields:  template <class V> void fields(V& visit) { visit("tokens", tokens); visit("dtype",
//   dtype); }
//   - is comparable:     bool operator==(const X&) const = default;
// An enum used as a field has to_string(E) and parse_enum(std::string_view, E&) found by argument-dependent
// lookup.

namespace fathom {

namespace detail {
void append_field(std::string& out, std::string_view key, std::string_view value);
/// Splits "op:k=v,k=v". Throws InvalidArgument if the op differs, the text is not of this form, or a key
/// comes twice.
std::vector<std::pair<std::string, std::string>> split_problem(std::string_view op, std::string_view text);
std::int64_t parse_integer(std::string_view op, std::string_view key, std::string_view value);
[[noreturn]] void bad_field(std::string_view op, std::string_view key, std::string_view value);
[[noreturn]] void unknown_key(std::string_view op, std::string_view key, std::string_view known);

struct FieldPrinter {
  std::string text;
  template <class T>
  void operator()(std::string_view key, const T& value) {
    if constexpr (std::is_same_v<T, bool>) {
      append_field(text, key, value ? "1" : "0");
    } else if constexpr (std::is_integral_v<T>) {
      append_field(text, key, std::to_string(value));
    } else {
      append_field(text, key, to_string(value));
    }
  }
};

struct FieldParser {
  std::string_view op;
  std::string_view key;
  std::string_view value;
  std::string known;
  bool found = false;
  template <class T>
  void operator()(std::string_view name, T& field) {
    known += known.empty() ? "" : ", ";
    known += name;
    if (name != key) return;
    found = true;
    if constexpr (std::is_same_v<T, bool>) {
      if (value != "0" && value != "1") bad_field(op, key, value);
      field = value == "1";
    } else if constexpr (std::is_integral_v<T>) {
      field = static_cast<T>(parse_integer(op, key, value));
    } else if constexpr (std::is_same_v<T, DType>) {
      const auto dtype = parse_dtype(value);
      if (!dtype) bad_field(op, key, value);
      field = *dtype;
    } else {
      if (!parse_enum(value, field)) bad_field(op, key, value);
    }
  }
};
}  // namespace detail

/// "rms_norm:tokens=4,dim=256,dtype=f32"
template <class Problem>
std::string problem_string(Problem problem) {
  detail::FieldPrinter printer;
  problem.fields(printer);
  return std::string(Problem::op) + ":" + printer.text;
}

/// Reads problem_string back. Keys that are missing keep the values of a default-constructed Problem.
/// Throws InvalidArgument for an unknown or repeated key or a value that does not parse.
template <class Problem>
Problem parse_problem(std::string_view text) {
  Problem problem{};
  for (const auto& [key, value] : detail::split_problem(Problem::op, text)) {
    detail::FieldParser parser{Problem::op, key, value, {}, false};
    problem.fields(parser);
    if (!parser.found) detail::unknown_key(Problem::op, key, parser.known);
  }
  return problem;
}

}  // namespace fathom
