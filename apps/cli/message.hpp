// Messages to standard error. Where nobody can read them, nothing fails for it.
#pragma once
#include <fmt/format.h>

#include <cstdio>
#include <string>
#include <utility>

namespace fathom::cli {

template <class... A>
void message(fmt::format_string<A...> format, A&&... arguments) {
  const std::string text = fmt::format(format, std::forward<A>(arguments)...);
  std::fwrite(text.data(), 1, text.size(), stderr);  // fmt::print would throw
}

}  // namespace fathom::cli
