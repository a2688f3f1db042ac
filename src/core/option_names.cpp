#include "core/option_names.hpp"

#include <string>

#include "fathom/core/error.hpp"
#include "fathom/core/op_info.hpp"

namespace fathom {

namespace {

void check_one(std::string_view text) {
  const auto equals = text.find('=');
  const std::string_view op = equals == std::string_view::npos ? std::string_view{} : text.substr(0, equals);
  const std::string_view name = equals == std::string_view::npos ? text : text.substr(equals + 1);
  for (const OpInfo* info : all_ops()) {
    if (!op.empty() && info->name != op) continue;
    for (const std::string_view implementation : info->implementations) {
      if (implementation == name) return;
    }
  }
  throw InvalidArgument("FATHOM_FORCE_IMPL: nothing is named '" + std::string(text) +
                        "'; expected IMPLEMENTATION or OP=IMPLEMENTATION, see `fathom info`");
}

}  // namespace

std::string_view next_of_list(std::string_view& list) {
  const auto comma = list.find(',');
  const std::string_view first = list.substr(0, comma);
  list = comma == std::string_view::npos ? std::string_view{} : list.substr(comma + 1);
  return first;
}

void check_forced_implementation(std::string_view text) {
  while (!text.empty()) check_one(next_of_list(text));
}

}  // namespace fathom
