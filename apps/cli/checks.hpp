// Checks of option values, with the messages of this project: what was expected and what came.
#pragma once
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <cstdint>
#include <string>
#include <vector>

namespace fathom::cli {

/// Digits and perhaps a sign, from `least` to `most`.
inline CLI::Validator whole_number(std::int64_t least, std::int64_t most) {
  return {[=](std::string& text) {
            std::int64_t value = 0;
            const char* end = text.data() + text.size();
            const auto [stop, error] = std::from_chars(text.data(), end, value);
            if (error == std::errc{} && stop == end && value >= least && value <= most) return std::string();
            return fmt::format("must be a whole number from {} to {}, got '{}'", least, most, text);
          },
          ""};
}

/// A decimal number above or from `least`, and at most `most`.
inline CLI::Validator number(double least, double most, bool above_least = false) {
  return {[=](std::string& text) {
            double value = 0;
            const char* end = text.data() + text.size();
            const auto [stop, error] = std::from_chars(text.data(), end, value);
            const bool inside = (above_least ? value > least : value >= least) && value <= most;
            if (error == std::errc{} && stop == end && inside) return std::string();
            return fmt::format("must be a number {} {} {} {}, got '{}'", above_least ? "above" : "from",
                               least, above_least ? "and at most" : "to", most, text);
          },
          ""};
}

/// A path, or the name of something: anything but an empty word.
inline CLI::Validator not_empty() {
  return {[](std::string& text) { return std::string(text.empty() ? "must not be empty" : ""); }, ""};
}

inline CLI::Validator one_of(const std::vector<std::string>& names) {
  return {[=](std::string& text) {
            for (const std::string& name : names) {
              if (text == name) return std::string();
            }
            return fmt::format("must be {}, got '{}'", fmt::join(names, " or "), text);
          },
          ""};
}

}  // namespace fathom::cli
