// Tokens per second, for people and for JSON.
#pragma once
#include <fmt/format.h>

#include <cstdint>
#include <string>

namespace fathom::cli {

inline double rate(std::int64_t tokens, double seconds) {
  return seconds > 0 ? static_cast<double>(tokens) / seconds : 0;
}

/// "2513 tokens/s"; two digits where that is more than whole numbers: "0.042 tokens/s"
inline std::string rate_text(double tokens_per_second) {
  return tokens_per_second < 9.95 ? fmt::format("{:.2g} tokens/s", tokens_per_second)
                                  : fmt::format("{:.0f} tokens/s", tokens_per_second);
}

}  // namespace fathom::cli
