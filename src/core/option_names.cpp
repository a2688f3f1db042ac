#include "core/option_names.hpp"

#include <string>

#include "fathom/core/error.hpp"
#include "fathom/core/op_info.hpp"

namespace fathom {

void check_forced_implementation(std::string_view text) {
  if (text.empty()) return;
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

}  // namespace fathom
