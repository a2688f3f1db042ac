#include "ops/dispatch.hpp"

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

namespace detail {
bool forced(const Context& context, std::string_view op, std::string& name) {
  const std::string_view text = context.options().force_implementation;
  const auto equals = text.find('=');
  if (equals != std::string_view::npos) {
    name = text.substr(equals + 1);
    return text.substr(0, equals) == op;
  }
  // Without an op the name speaks of every op that has it.
  name = text;
  for (const OpInfo* info : all_ops()) {
    if (info->name != op) continue;
    for (const std::string_view implementation : info->implementations) {
      if (implementation == name) return true;
    }
  }
  return false;
}
}  // namespace detail
}  // namespace fathom
namespace fathom {
void check_linear_algorithm(std::string_view) {}
}  // namespace fathom
